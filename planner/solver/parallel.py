"""The questions of a grid, answered on all cores."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from planner.plans.grid import Point
from planner.solver.sweep import Row, answer_typed

Track = Callable[[Iterator[Future[Row]], int], Iterable[Future[Row]]]
"""Passes on what is done, of so many questions, and may show it."""


def answer(
    given: dict[str, Any],
    points: Sequence[Point],
    rows: dict[int, Row],
    time_limit_s: float | None,
    *,
    jobs: int | None,
    track: Track,
) -> None:
    """Fill ``rows`` by the number of the point, in the order in which they are answered.

    Args:
        given: what is asked at every point, as :func:`planner.solver.sweep.grid` takes it.
        points: the grid.
        rows: where the answers go; those that are done are there when Ctrl-C ends it.
        time_limit_s: how long each may take.
        jobs: how many processes; ``None`` is one a core.
        track: what every answer passes.

    Raises:
        KeyboardInterrupt: Ctrl-C; no process is left.
    """
    workers = min(jobs or os.cpu_count() or 1, len(points))
    # Fresh interpreters: threads of the progress bar do not survive a fork.
    context = multiprocessing.get_context("spawn")
    numbers: dict[Future[Row], int] = {}
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            with _keeping_interrupts():
                for number, point in enumerate(points):
                    vary = [f"{key}={word}" for key, word in point.varied.items()]
                    numbers[pool.submit(answer_typed, given, vary, time_limit_s)] = number
            for future in track(as_completed(numbers), len(points)):
                rows[numbers[future]] = future.result()
        except KeyboardInterrupt:
            rows |= {number: future.result() for future, number in numbers.items() if _answered(future)}
            # Nobody waits for the questions that are being answered.
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _answered(future: Future[Row]) -> bool:
    return future.done() and future.exception() is None


@contextmanager
def _keeping_interrupts() -> Iterator[None]:
    """The processes that are started meanwhile never get Ctrl-C, of which this one has to tell them."""
    # It would let interrupts through when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
