"""``sweep``: solve a grid of questions on all cores."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force, Json, answer_with_table, check_table, print_json
from planner.cli.solve import SEARCH_TIME
from planner.diagnostics import ExitCode
from planner.handover.options import Option, Range
from planner.outputs import say, tabled
from planner.plans import question
from planner.specs import OffloadTier


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``sweep``: those of a question, any of which may be varied instead."""

    vary: Annotated[
        tuple[str, ...],
        Option(
            "What to vary, as key=value,value; repeatable. Keys: gpus, gpu, model, global_batch, seq_len, precision, "
            "stack, reserve, confidence, allow_offload, network (a node's, as 8x200Gbit/s) and node_link (a card's, as "
            "300GB/s)."
        ),
    ]
    model: Annotated[str | None, Option("A model as `solve` takes it, unless varied.", known=question.MODEL_NAMES)] = (
        None
    )
    gpus: Annotated[int | None, Option("How many GPUs, unless varied.", range=question.GPUS)] = None
    gpu: Annotated[
        str | None, Option("Built-in card or a TOML file. [default: a100-40g]", known=question.GPU_NAMES)
    ] = None
    stack: Annotated[str | None, Option("Training framework. [default: colossalai]", known=question.STACK_NAMES)] = None
    gpus_per_node: question.GpusPerNode = None
    network: question.Network = None
    global_batch: question.GlobalBatch = None
    seq_len: question.SeqLen = None
    precision: question.WantedPrecision = None
    objective: question.Minimised = "step-time"
    mode: question.Mode = None
    pin: question.Pins = ()
    forbid: question.Forbids = ()
    allow_offload: Annotated[OffloadTier | None, Option("How far optimizer states may move. [default: none]")] = None
    reserve: question.ReserveText = None
    confidence: question.Confidence = None
    no_compile: question.NoCompile = False
    time_limit_s: Annotated[
        float | None, Option("Seconds each search may take. [default: none]", ("--time-limit",), range=SEARCH_TIME)
    ] = None
    jobs: Annotated[int | None, Option("Processes. [default: one a core]", range=Range(example="2"))] = None
    out: Annotated[Path | None, Option("Write the rows to a CSV file.")] = None
    force: Force = False
    as_json: Json = False


def sweep(options: Sweep) -> int:
    """Solve a grid of questions and show how the best layout moves."""
    from planner.plans.grid import grid, parse_axes
    from planner.solver import parallel
    from planner.solver.sweep import COLUMNS, Row, rows_csv
    from planner.views import sweep as sweep_view
    from planner.views.terminal import print_content, track

    check_table(options.out, "sweep.csv", tabled(COLUMNS), force=options.force)
    asked = {field: getattr(options, field) for field in question.Question.__struct_fields__}
    given = {field: value for field, value in asked.items() if value is not None}
    points = grid(given, parse_axes(options.vary))
    rows: dict[int, Row] = {}
    complete = True
    try:
        parallel.answer(given, points, rows, options.time_limit_s, jobs=options.jobs, track=track)
    except KeyboardInterrupt:
        complete = False  # what is done is kept
    done = [rows[number] for number in sorted(rows)]
    document = {"complete": complete, "points": len(points), "rows": msgspec.to_builtins(done)}
    answer_with_table(
        options.out,
        lambda: rows_csv(list(points[0].varied), done),
        tabled(COLUMNS),
        document if options.as_json else None,
        lambda: print_json(document) if options.as_json else print_content(sweep_view.rows_table(done)),
        force=options.force,
    )
    if not complete:
        say(f"interrupted after {len(done)} of {len(points)} points")
        return ExitCode.INTERRUPTED
    return ExitCode.OK if any(row.step_s is not None for row in done) else ExitCode.NEGATIVE
