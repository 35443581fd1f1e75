"""``sweep``: solve a grid of questions on all cores."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from planner.cli.parameters import Json, check_table, print_json
from planner.cli.solve import SEARCH_TIME
from planner.diagnostics import ExitCode
from planner.handover.options import Option, Range
from planner.plans import question
from planner.specs import OffloadTier

if TYPE_CHECKING:
    from concurrent.futures import Future

    from planner.solver.sweep import Point, Row


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``sweep``: those of a question, any of which may be varied instead."""

    vary: Annotated[
        tuple[str, ...],
        Option(
            "What to vary, as key=value,value; repeatable. Keys: gpus, gpu, model, global_batch, seq_len, precision, "
            "stack, reserve, allow_offload, and the bandwidths node_link and network."
        ),
    ]
    model: Annotated[
        str | None, Option("Built-in model or a TOML file, unless varied.", known=question.MODEL_NAMES)
    ] = None
    gpus: Annotated[int | None, Option("How many GPUs, unless varied.", range=question.GPUS)] = None
    gpu: Annotated[
        str | None, Option("Built-in card or a TOML file. [default: a100-40g]", known=question.GPU_NAMES)
    ] = None
    stack: Annotated[str | None, Option("Training framework. [default: colossalai]", known=question.STACK_NAMES)] = None
    gpus_per_node: question.GpusPerNode = None
    global_batch: question.GlobalBatch = None
    seq_len: question.SeqLen = None
    precision: question.WantedPrecision = None
    objective: question.Minimised = "step-time"
    mode: question.Mode = None
    pin: question.Pins = ()
    forbid: question.Forbids = ()
    allow_offload: Annotated[OffloadTier | None, Option("How far optimizer states may move. [default: none]")] = None
    reserve: question.ReserveText = None
    time_limit_s: Annotated[
        float | None, Option("Seconds each search may take. [default: none]", ("--time-limit",), range=SEARCH_TIME)
    ] = None
    jobs: Annotated[int | None, Option("Processes. [default: one a core]", range=Range(example="2"))] = None
    out: Annotated[Path | None, Option("Write the rows to a CSV file.")] = None
    as_json: Json = False


def sweep(options: Sweep) -> int:
    """Solve a grid of questions and show how the best layout moves."""
    from planner.solver.sweep import grid, parse_axes, write_rows
    from planner.views import sweep as sweep_view
    from planner.views.terminal import print_content

    check_table(options.out, "sweep.csv")
    asked = {field: getattr(options, field) for field in question.Question.__struct_fields__}
    given = {field: value for field, value in asked.items() if value is not None}
    points = grid(given, parse_axes(options.vary))
    rows: dict[int, Row] = {}
    complete = True
    try:
        _collect(given, points, options, rows)
    except KeyboardInterrupt:
        complete = False  # what is done is kept
    done = [rows[number] for number in sorted(rows)]
    if options.out is not None:
        write_rows(options.out, list(points[0].varied), done)
    if options.as_json:
        print_json({"complete": complete, "points": len(points), "rows": msgspec.to_builtins(done)})
    else:
        print_content(sweep_view.rows_table(done), least_width=sweep_view.LEAST_WIDTH)
    if not complete:
        sys.stderr.write(f"interrupted after {len(done)} of {len(points)} points\n")
        return ExitCode.INTERRUPTED
    return ExitCode.OK if any(row.step_s is not None for row in done) else ExitCode.NEGATIVE


def _collect(given: dict[str, Any], points: Sequence["Point"], options: Sweep, rows: dict[int, "Row"]) -> None:
    """Fill ``rows`` by the number of the point, in the order in which they are answered."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from planner.solver.sweep import answer_typed
    from planner.views.terminal import track

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


def _answered(future: "Future[Row]") -> bool:
    return future.done() and future.exception() is None


@contextmanager
def _keeping_interrupts() -> Iterator[None]:
    """The processes that are started meanwhile never get Ctrl-C, of which this one has to tell them."""
    from multiprocessing import resource_tracker

    # It would let interrupts through when it starts.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
