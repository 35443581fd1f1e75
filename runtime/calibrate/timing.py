"""Timing of repeated work on a device or the CPU: warm-up, repetitions within a budget, the median."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence

import torch

WARM_UP_RUNS = 2
LEAST_REPETITIONS = 3
MOST_REPETITIONS = 50
QUEUE_FLOPS_EDGE = 4096
"""Edge of the matrix product that keeps an accelerator busy while the measured work is queued behind it."""
PAUSE_ELEMENTS = 2**24
PAUSE_SHARE = 0.5
"""Element-wise work between products, in times of theirs: about what a training step has."""
SHORT_S = 1e-4
"""Shorter work is over before the host has issued the next, so that the device cools down in between."""
ROUND_S = 2e-3
IN_FLIGHT = 3
"""Rounds that are issued before the first of them is waited for."""

Work = Callable[[int], object]


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

    def in_step_seconds(self, works: Sequence[Work], budget_s: float) -> float:
        """Seconds of all ``works`` in turn, as they are in the middle of a training step.

        A device that is kept busy lowers its clock to stay within its power, and element-wise kernels in
        between let it rise again: each round of work is followed by some, and the mean over the second half
        of the budget counts. Work that is too short for that, and a CPU's, is timed by itself.
        """
        if self._device.type != "cuda":
            return sum(self.seconds(work, budget_s / len(works)) for work in works)
        alone = sum(self.seconds(work, budget_s / 4 / len(works)) for work in works)
        return alone if alone < SHORT_S else self._in_step(works, alone, budget_s * 3 / 4)

    def _in_step(self, works: Sequence[Work], alone_s: float, budget_s: float) -> float:
        left, right = (torch.ones(PAUSE_ELEMENTS, device=self._device, dtype=torch.bfloat16) for _ in range(2))
        result = torch.empty_like(left)

        def pause(_: int) -> object:
            return torch.add(left, right, out=result)

        pauses = max(1, round(PAUSE_SHARE * alone_s / self._batch(pause, 8)))
        rounds = max(1, round(ROUND_S / alone_s))
        issued: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        samples: list[float] = []
        started = time.perf_counter()
        while (passed := time.perf_counter() - started) < budget_s or len(samples) < LEAST_REPETITIONS:
            for index in range(rounds):
                issued.append(self._between(works, index))
                for _ in range(pauses):
                    pause(0)
            while len(issued) > IN_FLIGHT * rounds:
                begin, end = issued.popleft()
                end.synchronize()
                if passed > budget_s / 2:
                    samples.append(float(begin.elapsed_time(end)) * 1e-3)
        wait(self._device)
        return statistics.fmean(samples)

    def _between(self, works: Sequence[Work], index: int) -> "tuple[torch.cuda.Event, torch.cuda.Event]":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for work in works:
            work(index)
        end.record()
        return begin, end

    def seconds(self, work: Work, budget_s: float) -> float:
        """Seconds of one ``work(i)``, the median over batches; ``i`` counts the calls."""
        if self._device.type != "cuda":
            count = 0

            def next_call() -> None:
                nonlocal count
                work(count)
                count += 1

            return median_seconds(next_call, self._device, budget_s)
        return self._on_device(work, budget_s)

    def _on_device(self, work: Work, budget_s: float) -> float:
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

    def _batch(self, work: Work, calls: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        wait(self._device)
        torch.mm(self._filler, self._filler)
        begin.record()
        for index in range(calls):
            work(index)
        end.record()
        wait(self._device)
        return float(begin.elapsed_time(end)) * 1e-3 / calls
