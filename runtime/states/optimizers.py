"""AdamW on the device, on the host, and with its moments on an NVMe drive."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

FUSED_ON_HOST = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
"""Whether this PyTorch has a fused AdamW for parameters in host memory."""

WEIGHT_DECAY = 1e-2
"""The default of torch's AdamW, for every AdamW here."""
DECAYS = "decays"
"""Key of a group of parameters: whether its weights decay."""


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """The parameters of a model as groups for an optimizer: weights, which decay, and norms and biases, which do not.

    Norms and biases are vectors, and nothing else is; to be called while parameters have their own shapes.
    """
    parameters = list(model.parameters())
    weights = [one for one in parameters if one.ndim > 1]
    vectors = [one for one in parameters if one.ndim <= 1]
    groups = [{"params": weights, DECAYS: True}, {"params": vectors, DECAYS: False, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


@contextmanager
def instead_of_update(optimizer: Any, update: Callable[..., Any]) -> Iterator[None]:
    """Call ``update`` where the wrappers of an optimizer would have the innermost one update the weights.

    Around it they do what they do in every step: bring gradients to what is updated, and forget them afterwards.
    """
    plain = optimizer.optim
    before = vars(plain).get("step")
    plain.step = update
    try:
        yield
    finally:
        del plain.step
        if before is not None:
            plain.step = before


def fuse_adamw(optimizer: Any) -> None:
    """Have torch's AdamW update in one kernel, where its parameters allow it; to be called after boosting.

    Its default on GPUs has temporaries of four bytes a parameter, on the host it loops over parameters.
    """
    on_host = any(parameter.is_cpu for group in optimizer.param_groups for parameter in group["params"])
    if on_host and not FUSED_ON_HOST:
        return
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def host_adam(parameters: Iterable[Any], *, lr: float, nvme_folder: Path | None = None) -> Optimizer:
    """Colossal-AI's AdamW, which updates parameters where they are and can keep moments in ``nvme_folder``.

    With a folder, the moments of all parameters in host memory are in a file of this rank there,
    read and written back in every step; :func:`runtime.states.nvme.reserve_moments` has to follow.
    """
    from colossalai.nn.optimizer import HybridAdam

    from runtime.patches.host_adam import provide_cpu_adam

    provide_cpu_adam()
    adam: Optimizer = HybridAdam(parameters, lr=lr, weight_decay=WEIGHT_DECAY, adamw_mode=True)
    if nvme_folder is not None:
        from runtime.states.nvme import keep_moments_in

        keep_moments_in(nvme_folder, adam)
    return adam
