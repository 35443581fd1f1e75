"""``sweep``: solve a grid of questions on all cores."""

import csv
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import msgspec

from planner.cli.output import print_json
from planner.cli.solving import check_search_options
from planner.diagnostics import ExitCode, usage_error
from planner.plans.grid import Point, grid, parse_axes
from planner.solver.sweep import COLUMNS, Row, answer_typed
from planner.views import sweep as sweep_view


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How to search and where to put the rows."""

    time_limit_s: float | None = None
    jobs: int | None = None
    out: Path | None = None
    as_json: bool = False


def sweep(given: dict[str, Any], vary: Sequence[str], options: SweepOptions) -> int:
    """Solve every point, print the table, write the CSV; Ctrl-C keeps what is done."""
    check_search_options(options.time_limit_s)
    _check_output(options)
    points = grid(given, parse_axes(vary))
    rows: dict[int, Row] = {}
    complete = True
    try:
        _collect(given, points, options, rows)
    except KeyboardInterrupt:
        complete = False
    done = [rows[number] for number in sorted(rows)]
    if options.out is not None:
        _write_csv(options.out, list(points[0].varied), done)
    if options.as_json:
        print_json({"complete": complete, "points": len(points), "rows": msgspec.to_builtins(done)})
    else:
        sweep_view.print_rows(done)
    if not complete:
        sys.stderr.write(f"interrupted after {len(done)} of {len(points)} points\n")
        return ExitCode.INTERRUPTED
    return ExitCode.OK if any(row.step_s is not None for row in done) else ExitCode.NEGATIVE


def _check_output(options: SweepOptions) -> None:
    if options.jobs is not None and options.jobs < 1:
        raise usage_error(
            f"--jobs has to be at least 1, and it is {options.jobs}", location="--jobs", hint="use `--jobs 2`"
        )
    out = options.out
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "this is a folder" if out.is_dir() else "there is no such folder to write into"
        raise usage_error(what, location=str(out), hint="name a file with `--out sweep.csv`")


def _collect(given: dict[str, Any], points: Sequence[Point], options: SweepOptions, rows: dict[int, Row]) -> None:
    """Fill ``rows`` by the number of the point, in the order in which they are answered."""
    workers = min(options.jobs or os.cpu_count() or 1, len(points))
    # Fresh interpreters: threads of the progress bar do not survive a fork.
    context = multiprocessing.get_context("spawn")
    numbers: dict[Future[Row], int] = {}
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        try:
            with _keeping_interrupts():
                for number, point in enumerate(points):
                    vary = [f"{key}={word}" for key, word in point.varied.items()]
                    numbers[pool.submit(answer_typed, given, vary, options.time_limit_s)] = number
            for future in sweep_view.track(as_completed(numbers), len(points)):
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


def _write_csv(path: Path, keys: list[str], rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, *COLUMNS])
        for row in rows:
            cells = {name: getattr(row, name) for name in COLUMNS} | {"rules": " ".join(row.rules)}
            writer.writerow([*row.varied.values(), *("" if cells[name] is None else cells[name] for name in COLUMNS)])
