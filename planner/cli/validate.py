"""``validate``: measured runs against the cost model."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from planner.cli.parameters import Json, check_table, print_json
from planner.diagnostics import Diagnostic, ExitCode, render, usage_error
from planner.handover.options import Option, Range
from planner.plans.question import GPU_NAMES
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

if TYPE_CHECKING:
    from planner.validation import Limits, Report
    from planner.validation.replay import Replay
    from planner.validation.score import Pair

PERCENT = Range(least=0, wanted="a percentage from 0 on", example="8")


class Validate(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``validate``."""

    tables: Annotated[tuple[Path, ...], Option("Tables of measured runs.", metavar="TABLE.csv ...", is_argument=True)]
    sets: Annotated[tuple[str, ...], Option("Only rows of this set; repeatable.", ("--set",))] = ()
    gpu: Annotated[
        str | None, Option("Built-in card or a TOML file. [default: what each row names]", known=GPU_NAMES)
    ] = None
    max_memory_error: Annotated[
        float | None, Option("Largest mean memory error of a set, in percent.", range=PERCENT)
    ] = None
    max_time_error: Annotated[
        float | None, Option("Largest mean step-time error of a set, in percent.", range=PERCENT)
    ] = None
    worst: Annotated[
        int, Option("How many of the worst rows to list.", range=Range(least=0, wanted="0 or more", example="10"))
    ] = 10
    out: Annotated[Path | None, Option("Write the rows with predictions to a CSV file.")] = None
    as_json: Json = False


def validate(options: Validate) -> int:
    """Replay measured runs through the cost model and report the error; exit code 1 over a limit."""
    from planner.validation import Limits
    from planner.validation import validate as replayed
    from planner.views import validation as validation_view

    check_table(options.out, "predicted.csv")
    limits = Limits(options.max_memory_error, options.max_time_error)
    hardware = load_spec(options.gpu, HardwareSpec) if options.gpu is not None else None
    report = replayed(options.tables, options.sets, hardware)
    if options.out is not None:
        _write_csv(options.out, report)
    if options.as_json:
        print_json(document(report, limits))
    else:
        validation_view.print_report(report, most=options.worst)
    over = report.over(limits)
    for message in over:
        sys.stderr.write(render(Diagnostic(rule="VAL001", message=message)) + "\n")
    return ExitCode.NEGATIVE if over else ExitCode.OK


def document(report: "Report", limits: "Limits") -> dict[str, Any]:
    """The answer as one JSON document."""
    return {
        "sets": msgspec.to_builtins(report.sets),
        "rows": [row_document(one) for one in report.replays],
        "assumptions": report.assumptions,
        "over_limit": report.over(limits),
    }


def row_document(one: "Replay") -> dict[str, Any]:
    """One row of the answer; the predictions are null where the row was skipped."""
    from planner.validation.report import memory_pair, predicted_gib, time_pair

    return {
        "id": one.row.id,
        "set": one.row.set_name,
        "predicted_mem_gib": predicted_gib(one),
        "predicted_step_s": one.predicted.step_s if one.predicted else None,
        "predicted_outcome": one.outcome,
        "skipped": one.skipped,
        "memory_error_pct": _error(memory_pair(one)),
        "step_error_pct": _error(time_pair(one)),
    }


def _error(pair: "Pair | None") -> float | None:
    from planner.validation.score import error_pct

    return None if pair is None else error_pct(*pair)


def _write_csv(path: Path, report: "Report") -> None:
    """The rows as they were read, with the predicted columns behind them."""
    from planner.validation.tables import OUTPUT_COLUMNS

    columns = list(
        dict.fromkeys(name for table in report.tables for name in table.columns if name not in OUTPUT_COLUMNS)
    )
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([*columns, *OUTPUT_COLUMNS])
            for one in report.replays:
                predicted = row_document(one)
                cells = [one.row.cells.get(name, "") for name in columns]
                writer.writerow(
                    [*cells, *("" if predicted[name] is None else predicted[name] for name in OUTPUT_COLUMNS)]
                )
    except OSError as error:
        raise usage_error(f"cannot write the rows: {error.strerror}", location=str(path)) from error
