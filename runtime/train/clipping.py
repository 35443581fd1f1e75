"""Clipping by the norm of all gradients together, which in every layout is that of one process.

What a library counts differs from plugin to plugin: copies of tensor parallelism twice, stages or grids on their own.
Here every element of a parameter counts once, on the rank that would save it in a checkpoint: not the padding of a
vocabulary, not the copy of a tied head, not the replicas of data, tensor or sequence parallelism.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.checkpoints.engines import held_states
from runtime.checkpoints.held import Held, innermost
from runtime.checkpoints.routes import routes, stage_group
from runtime.engines.engine import Engine
from runtime.states.mixed_adamw import MixedAdamW

_LEAST = 1e-6
"""Added to a norm that divides, as torch.nn.utils.clip_grad_norm_ does."""


class Clipping:
    """Scales gradients whose norm is too long, just before the innermost optimizer updates.

    There every wrapper has them ready: averaged, summed over stages and sequences, and divided by the scale of the loss
    (but for ZeRO stage 3, which hands that on).
    """

    def __init__(self, engine: Engine, longest: float) -> None:
        """Clip to ``longest`` from the next step on; all ranks have to call it.

        Raises:
            PlanError: it cannot be told which rank has what.
        """
        self.norm: float | None = None
        """Of the last update, before it was clipped; ``None`` before the first."""
        self._longest, self._device, self._held = longest, engine.device, held_states(engine)
        found = routes(self._held, stage_group(engine.layout))
        me = dist.get_rank()
        counted = {route.name for route in found for source in route.sources if source.rank == me}
        self._counted = [one for one in self._held if one.name in counted and not one.is_copy]
        self._plain = innermost(engine.optimizer)
        self._update: Callable[..., Any] = self._plain.step
        self._plain.step = self._clipped

    def _clipped(self, *arguments: Any, **settings: Any) -> Any:
        """The update of the innermost optimizer, if the norm is a number."""
        # ZeRO stage 3 leaves it to the update to divide by the scale of the loss; without one it says -1.
        scale = max(settings.get("div_scale", 1.0), 0.0) or 1.0
        squares = torch.zeros((), dtype=torch.float64, device=self._device)
        for one in self._counted:
            squares += _square(one).to(self._device)
        dist.all_reduce(squares)
        self.norm = math.sqrt(float(squares)) / scale
        if not math.isfinite(self.norm):
            return None
        if self.norm > self._longest:
            self._multiply(self._longest / (self.norm + _LEAST))
        return self._update(*arguments, **settings)

    def _multiply(self, factor: float) -> None:
        if isinstance(self._plain, MixedAdamW):
            self._plain.gradient_scale = factor
            return
        for one in self._held:
            if one.updated.grad is not None:
                one.updated.grad.mul_(factor)


def _square(one: Held) -> Tensor:
    """The sum of squares of the gradient that a rank counts; rows that pad a vocabulary come last, and do not."""
    if one.updated.grad is None:
        return torch.zeros((), dtype=torch.float64)
    own = one.updated.grad.flatten()[: max(0, min(one.stop, one.part.num_filled) - one.start)]
    return torch.linalg.vector_norm(own, dtype=torch.float32).double().square()
