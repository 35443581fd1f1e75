"""AdamW on the device, on the host, and with its moments on an NVMe drive."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

FUSED_ON_HOST = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
"""Whether this PyTorch has a fused AdamW for parameters in host memory."""

WEIGHT_DECAY = 1e-2
"""The default of torch's AdamW, for every AdamW here."""


def fuse_adamw(optimizer: Any) -> None:
    """Have torch's AdamW update in one kernel, where its parameters allow it; to be called after boosting.

    Its default on GPUs has temporaries of four bytes a parameter, on the host it loops over parameters.
    """
    on_host = any(parameter.is_cpu for group in optimizer.param_groups for parameter in group["params"])
    if on_host and not FUSED_ON_HOST:
        return
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False


def host_adam(parameters: Iterable[nn.Parameter], *, lr: float, nvme_folder: Path | None = None) -> Optimizer:
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
