"""The loss scale of fp16, which Colossal-AI's three wrappers of an optimizer each keep in their own way."""

from typing import Any

from planner.checkpoints.manifest import LossScale

MIXINS = ("mixed_precision", "mixed_precision_mixin", "mix_precision_mixin")
"""What the wrappers call the part that scales the loss."""


def read_loss_scale(optimizer: Any) -> LossScale | None:
    """The numbers that it goes on from; ``None`` where the loss is not scaled."""
    scaler = _scaler(optimizer)
    if scaler is None:
        return None
    return LossScale(
        scale=float(scaler._scale), growth_step=scaler._growth_step, hysteresis_step=scaler._hysteresis_step
    )


def write_loss_scale(optimizer: Any, numbers: LossScale | None) -> None:
    """Go on from ``numbers``; without them, or where the loss is not scaled, nothing changes."""
    scaler = _scaler(optimizer)
    if scaler is not None and numbers is not None:
        scaler._scale.fill_(numbers.scale)
        scaler._growth_step, scaler._hysteresis_step = numbers.growth_step, numbers.hysteresis_step


def _scaler(optimizer: Any) -> Any:
    scalers = (getattr(getattr(optimizer, name, None), "grad_scaler", None) for name in MIXINS)
    return next((scaler for scaler in scalers if scaler is not None), None)
