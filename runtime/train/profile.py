"""One step under torch's profiler: what its time went into, in the terms of the cost model."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from runtime.exchange import of_everyone

STEPS_IN_A_ROW = 2
LONGEST_KERNELS = 40
"""How many of them a profile names."""
_POINT_TO_POINT = ("sendrecv", "_send", "_recv")
_COLLECTIVE = "nccl"
_ANNOTATION = "nccl:"
"""Names that PyTorch puts over its collectives, which are no kernels."""


class Kernel(NamedTuple):
    """One kernel or copy on the device, in seconds since any moment."""

    name: str
    start_s: float
    end_s: float


class Phase(NamedTuple):
    """A part of a step: its time by the host's clock and what the device did in it."""

    wall_s: float
    kernels: tuple[Kernel, ...]


class StepProfile(NamedTuple):
    """What one step of one rank went into; empty where the profiler sees no device."""

    terms_s: dict[str, float]
    """They sum to the step."""
    kernels_s: dict[str, float]
    """The kernels that take most of the device's time, by name, longest first."""
    collectives_s: dict[str, float]
    """What collectives run in a step, without messages between stages, and what of that ``beside_compute``."""


NO_PROFILE = StepProfile({}, {}, {})


def profiled_step(
    device: torch.device, accumulate_gradients: Callable[[], object], update: Callable[[], object]
) -> StepProfile:
    """More training steps of this rank under the profiler: one in its two parts, then some in a row.

    What one step leaves to the next, as the gathering of its weights, runs beside that one only in a row. Every rank
    has to ask.
    """
    if device.type != "cuda":
        return NO_PROFILE
    found: list[Phase] = []
    for parts in ((accumulate_gradients,), (update,), (accumulate_gradients, update) * STEPS_IN_A_ROW):
        with _phase(found):
            for part in parts:
                part()
    gradients, updating, row = found
    if not gradients.kernels:
        return NO_PROFILE
    collectives_s = overlap(row, STEPS_IN_A_ROW)
    kernels = longest_kernels((*gradients.kernels, *updating.kernels))
    return StepProfile(step_terms(gradients, updating, collectives_s), kernels, collectives_s)


def overlap(row: Phase, steps: int) -> dict[str, float]:
    """How long the collectives of a step run, and how long something is computed meanwhile, in seconds."""
    computing = _union(kernel for kernel in row.kernels if not _is_communication(kernel))
    reducing = _union(kernel for kernel in row.kernels if _is_communication(kernel) and not _is_pipeline(kernel))
    both_s = _length(computing) + _length(reducing) - _length(_merged(computing + reducing))
    return {"all": _length(reducing) / steps, "beside_compute": both_s / steps}


def longest_kernels(kernels: Iterable[Kernel]) -> dict[str, float]:
    """Time of all runs of a kernel, by name, of those that take longest, in seconds."""
    totals: dict[str, float] = {}
    for kernel in kernels:
        totals[kernel.name] = totals.get(kernel.name, 0.0) + kernel.end_s - kernel.start_s
    return dict(sorted(totals.items(), key=lambda item: -item[1])[:LONGEST_KERNELS])


def slowest_rank(own: StepProfile) -> StepProfile:
    """The profile of the rank that computes longest; every rank has to ask."""
    return max(of_everyone(own, StepProfile), key=lambda one: one.terms_s.get("compute", 0.0))


def step_terms(gradients: Phase, update: Phase, collectives_s: dict[str, float]) -> dict[str, float]:
    """Terms of a step from its two phases, in seconds: forward and backward, then the optimizer.

    Communication counts where nothing is computed meanwhile, in steps that follow each other. Waiting for another
    stage is a point-to-point kernel that spins, and belongs to ``pipeline``. What the device idles before the
    optimizer is ``host``; the optimizer's own idling belongs to it, as its formula is one of host and device.
    """
    computing = _union(kernel for kernel in gradients.kernels if not _is_communication(kernel))
    reducing = _union(kernel for kernel in gradients.kernels if _is_communication(kernel) and not _is_pipeline(kernel))
    passing = _union(kernel for kernel in gradients.kernels if _is_pipeline(kernel))
    compute_s, with_reducing_s = _length(computing), _length(_merged(computing + reducing))
    busy_s = _length(_merged(computing + reducing + passing))
    updating = _union(kernel for kernel in update.kernels if not _is_communication(kernel))
    update_s = _length(_merged(updating + _union(filter(_is_communication, update.kernels)))) - _length(updating)
    return {
        "compute": compute_s,
        "communication": collectives_s["all"] - collectives_s["beside_compute"],
        "pipeline": busy_s - with_reducing_s,
        "optimizer": update.wall_s - update_s,
        "host": max(gradients.wall_s - busy_s, 0.0),
    }


@contextmanager
def _phase(found: list[Phase]) -> Iterator[None]:
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        # The profilers of the ranks do not start together.
        dist.barrier()
        torch.cuda.synchronize()
        start = time.perf_counter()
        yield
        torch.cuda.synchronize()
        wall_s = time.perf_counter() - start
    events = profiler.events() or []
    spans = [
        Kernel(event.name, event.time_range.start / 1e6, event.time_range.end / 1e6)
        for event in events
        if event.device_type.name == "CUDA" and not event.is_user_annotation
        if not event.name.startswith(_ANNOTATION)
    ]
    found.append(Phase(wall_s, _after_barrier(sorted(spans, key=lambda kernel: kernel.start_s))))


def _after_barrier(kernels: list[Kernel]) -> tuple[Kernel, ...]:
    first = next((index for index, kernel in enumerate(kernels) if _is_communication(kernel)), -1)
    return tuple(kernels[first + 1 :])


def _is_communication(kernel: Kernel) -> bool:
    return _COLLECTIVE in kernel.name.lower()


def _is_pipeline(kernel: Kernel) -> bool:
    return _is_communication(kernel) and any(word in kernel.name.lower() for word in _POINT_TO_POINT)


def _union(kernels: Iterable[Kernel]) -> list[tuple[float, float]]:
    return _merged([(kernel.start_s, kernel.end_s) for kernel in kernels])


def _merged(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same time without overlaps, in order."""
    result: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(result[-1][1], end))
        else:
            result.append((start, end))
    return result


def _length(spans: list[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)
