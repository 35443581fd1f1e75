"""Collectives between the devices of a node, by size and group."""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist

from planner.handover.measurements import Collective, CollectiveKind
from runtime.calibrate.timing import timed, wait

DEVICE_SIZES = (4 * 1024, 64 * 1024, 1024**2, 16 * 1024**2, 128 * 1024**2)
CPU_SIZES = (4 * 1024, 64 * 1024, 1024**2, 16 * 1024**2)
KINDS: tuple[CollectiveKind, ...] = ("all-reduce", "all-gather", "send")
MOST_REPETITIONS = 30
QUEUED_CALLS = 8
"""Calls that an accelerator gets one after another."""
QUEUE_EDGE = 8192
"""Edge of the matrix product in fp32 behind which they queue, so that the host's time to issue them is hidden."""


def group_sizes(world: int) -> list[int]:
    """Powers of two below the number of ranks, and that number."""
    sizes = [2**power for power in range(1, 20) if 2**power < world]
    return [*sizes, world] if world > 1 else []


def measure_collectives(device: torch.device, budget_s: float, sizes: Sequence[int] = ()) -> list[Collective]:
    """Time every kind over groups of 2 up to all ranks; all groups of a kind communicate at the same time.

    Every rank has to call it. What comes back is the slowest rank's time. Units: s.
    """
    world = dist.get_world_size()
    sizes = sizes or (DEVICE_SIZES if device.type == "cuda" else CPU_SIZES)
    runs = [(size, kind) for size in group_sizes(world) for kind in KINDS if kind != "send" or size == 2]  # noqa: PLR2004
    share = budget_s / max(1, len(runs) * len(sizes))
    found = []
    groups = {size: _my_group(size) for size in group_sizes(world)}
    for size, kind in runs:
        for num_bytes in sizes:
            seconds = _agreed_seconds(collective(kind, groups[size], num_bytes, device), device, share)
            found.append(Collective(kind=kind, size=size, num_bytes=num_bytes, seconds=seconds))
    return found


def _my_group(size: int) -> "dist.ProcessGroup | None":
    """The group of ``size`` consecutive ranks that this rank is in; ``None`` for ranks that are left over."""
    world, mine = dist.get_world_size(), None
    for first in range(0, world - world % size, size):
        ranks = list(range(first, first + size))
        group = dist.new_group(ranks)
        if dist.get_rank() in ranks:
            mine = group
    return mine


def collective(
    kind: CollectiveKind, group: "dist.ProcessGroup | None", num_bytes: int, device: torch.device
) -> Callable[[], object]:
    """One call of a collective over ``num_bytes`` in all; a rank without a group waits for nobody."""
    if group is None:
        return lambda: None
    size, me = dist.get_world_size(group), dist.get_rank(group)
    whole = torch.ones(num_bytes // 4 // size * size, device=device)
    part = whole[: whole.numel() // size].clone()
    parts = list(whole.chunk(size))
    if kind == "all-reduce":
        return lambda: dist.all_reduce(whole, group=group)
    if kind == "send":
        peer = dist.get_global_rank(group, 1 - me)
        return lambda: dist.send(whole, peer, group=group) if me == 0 else dist.recv(whole, peer, group=group)
    if device.type == "cuda":
        return lambda: dist.all_gather_into_tensor(whole, part, group=group)
    return lambda: dist.all_gather(parts, part, group=group)


def _agreed_seconds(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """The median over as many calls as all ranks agree on, each as long as its slowest rank takes."""
    work()  # opens the connections
    sample = queued_seconds(work, device) if device.type == "cuda" else partial(alone_seconds, work, device)
    once = slowest(timed(sample, device), device)
    repetitions = int(max(2, min(MOST_REPETITIONS, budget_s / max(once, 1e-6))))
    return slowest(statistics.median(sample() for _ in range(repetitions)), device)


def alone_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call, from when all ranks of the job have come to it."""
    dist.barrier()
    return timed(work, device)


def queued_seconds(work: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Device time of one call among several, from when all ranks of the job have come to the first."""
    edge = torch.zeros(QUEUE_EDGE, QUEUE_EDGE, device=device)
    meeting = torch.zeros(1, device=device)

    def sample() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        wait(device)
        dist.barrier()
        torch.mm(edge, edge)
        dist.all_reduce(meeting)
        begin.record()
        for _ in range(QUEUED_CALLS):
            work()
        end.record()
        wait(device)
        return float(begin.elapsed_time(end)) * 1e-3 / QUEUED_CALLS

    return sample


def slowest(seconds: float, device: torch.device) -> float:
    """The longest time of any rank of the job."""
    found = torch.tensor([seconds], dtype=torch.float64, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return float(found.item())
