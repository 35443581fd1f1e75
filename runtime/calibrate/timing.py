"""Timing of repeated work on a device or the CPU: warm-up, repetitions within a budget, the median."""

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP_RUNS = 2
LEAST_REPETITIONS = 3
MOST_REPETITIONS = 50
QUEUE_FLOPS_EDGE = 4096
"""Edge of the matrix product that keeps an accelerator busy while the measured work is queued behind it."""


def wait(device: torch.device) -> None:
    """Until the device has done what was issued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call of ``work``, the device's share of it included."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def median_seconds(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """The median of several calls of ``work`` within about ``budget_s``; at least three unless one takes it all."""
    started = time.perf_counter()
    for _ in range(WARM_UP_RUNS):
        last = timed(work, device)
        if last > budget_s / LEAST_REPETITIONS:
            return last
    samples: list[float] = []
    while len(samples) < MOST_REPETITIONS:
        samples.append(timed(work, device))
        if len(samples) >= LEAST_REPETITIONS and time.perf_counter() - started > budget_s:
            break
    return statistics.median(samples)


class QueuedTimer:
    """Times work on an accelerator without the host's time to issue it.

    A large product is issued first; what follows is queued behind it and then runs without a gap. On a
    CPU there is no queue, and the calls are timed one by one.
    """

    def __init__(self, device: torch.device) -> None:
        """Make the operands of the product that fills the queue."""
        self._device = device
        edge = QUEUE_FLOPS_EDGE if device.type == "cuda" else 1
        self._filler = torch.zeros(edge, edge, device=device)

    def seconds(self, work: Callable[[int], object], budget_s: float) -> float:
        """Seconds of one ``work(i)``, the median over batches; ``i`` counts the calls."""
        if self._device.type != "cuda":
            count = 0

            def next_call() -> None:
                nonlocal count
                work(count)
                count += 1

            return median_seconds(next_call, self._device, budget_s)
        return self._on_device(work, budget_s)

    def _on_device(self, work: Callable[[int], object], budget_s: float) -> float:
        one = median_seconds(lambda: work(0), self._device, budget_s / 4)
        # As many calls as fill a millisecond or so; the queue of a device holds about a thousand.
        batch = max(1, min(64, round(1e-3 / max(one, 1e-6))))
        samples: list[float] = []
        started = time.perf_counter()
        while len(samples) < MOST_REPETITIONS:
            samples.append(self._batch(work, batch))
            if len(samples) >= LEAST_REPETITIONS and time.perf_counter() - started > budget_s * 3 / 4:
                break
        return statistics.median(samples)

    def _batch(self, work: Callable[[int], object], calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        wait(self._device)
        torch.mm(self._filler, self._filler)
        begin.record()
        for index in range(calls):
            work(index)
        end.record()
        wait(self._device)
        return float(begin.elapsed_time(end)) * 1e-3 / calls
