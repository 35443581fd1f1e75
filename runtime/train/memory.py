"""What a rank has in memory: readings after boosting, after the first steps and at the end of a run."""

import platform
import resource
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

FIRST_STEPS = 3
"""Steps after each of which memory is read: the optimizer's states and the communicators appear in them."""


class RankMemory(NamedTuple):
    """Memory of one rank, in bytes."""

    rank: int
    stage: int
    allocated_bytes: int
    """Peak of device memory in tensors; on the CPU the largest resident size of the process."""
    reserved_bytes: int
    """Peak of device memory that PyTorch's allocator holds; on the CPU the same as ``allocated_bytes``."""
    held_bytes: int
    """Device memory in tensors at the time of the reading; on the CPU the same as ``allocated_bytes``."""
    device_used_bytes: int
    """Memory that the driver reports in use, of all processes; on the CPU the same as ``allocated_bytes``."""


def rank_memory(rank: int, stage: int, device: str) -> RankMemory:
    """A reading of this process; peaks count from its start or from the last :func:`forget_peaks`."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return RankMemory(
            rank,
            stage,
            torch.cuda.max_memory_allocated(),
            torch.cuda.max_memory_reserved(),
            torch.cuda.memory_allocated(),
            total - free,
        )
    # Linux counts ru_maxrss in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return RankMemory(rank, stage, resident, resident, resident, resident)


def gather_memory(stage: int, device: torch.device) -> list[RankMemory]:
    """A reading of every rank, by rank; every rank has to ask, with its own stage and device."""
    own = rank_memory(dist.get_rank(), stage, device.type)
    gathered = [torch.empty(len(own), dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, torch.tensor(own, dtype=torch.int64, device=device))
    return [RankMemory(*map(int, one)) for one in gathered]


def forget_peaks(device: torch.device) -> None:
    """Let peaks count from now on, so that those of a run are those of its steps."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def memory_records(readings: Sequence[RankMemory]) -> list[dict[str, Any]]:
    """The readings as a metrics file keeps them."""
    return [one._asdict() for one in readings]
