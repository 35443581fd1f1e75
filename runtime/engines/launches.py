"""Collectives on parts of flat tensors, many of them in one launch that nobody waits for yet."""

from contextlib import AbstractContextManager
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _coalescing_manager


def _either(name: str, former: str) -> Any:
    return getattr(dist, name, None) or getattr(dist, former)


# PyTorch 2.13 calls them otherwise.
reduce_scatter = _either("reduce_scatter_single", "reduce_scatter_tensor")
all_gather = _either("all_gather_single", "all_gather_into_tensor")


def at_once(group: dist.ProcessGroup) -> AbstractContextManager[Any]:
    """Collectives of one kind within go out together; what it gives has ``wait``, which holds up the device alone.

    NCCL makes one kernel of them, and none is copied into a buffer for that.
    """
    return _coalescing_manager(group, async_ops=True)
