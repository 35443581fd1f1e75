"""AdamW on the device and on the host."""

from typing import Any

import torch

FUSED_ON_HOST = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 4)
"""Whether this PyTorch has a fused AdamW for parameters in host memory."""


def fuse_adamw(optimizer: Any) -> None:
    """Have torch's AdamW update in one kernel, where its parameters allow it; to be called after boosting.

    Its default on GPUs has temporaries of four bytes a parameter, on the host it loops over parameters.
    """
    on_host = any(parameter.is_cpu for group in optimizer.param_groups for parameter in group["params"])
    if on_host and not FUSED_ON_HOST:
        return
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
