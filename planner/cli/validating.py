"""``validate``: measured runs against the cost model."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from planner.cli.output import print_json
from planner.diagnostics import Diagnostic, ExitCode, render, usage_error
from planner.specs import HardwareSpec
from planner.specs.files import load_spec
from planner.validation import Limits, Report, validate
from planner.validation.replay import Replay
from planner.validation.report import memory_pair, predicted_gib, time_pair
from planner.validation.score import Pair, error_pct
from planner.validation.tables import OUTPUT_COLUMNS
from planner.views import validation as validation_view

NO_LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class ValidateOptions:
    """What to replay, what to allow and where to put the rows."""

    sets: Sequence[str] = ()
    gpu: str | None = None
    limits: Limits = NO_LIMITS
    out: Path | None = None
    worst: int = 10
    as_json: bool = False


def validate_tables(paths: Sequence[Path], options: ValidateOptions) -> int:
    """Replay the tables, print the scores, write the CSV; 1 where an error is over its limit."""
    _check(options)
    hardware = load_spec(options.gpu, HardwareSpec) if options.gpu is not None else None
    report = validate(paths, options.sets, hardware)
    if options.out is not None:
        _write_csv(options.out, report)
    if options.as_json:
        print_json(document(report, options.limits))
    else:
        validation_view.print_report(report, most=options.worst)
    over = report.over(options.limits)
    for message in over:
        sys.stderr.write(render(Diagnostic(rule="VAL001", message=message)) + "\n")
    return ExitCode.NEGATIVE if over else ExitCode.OK


def _check(options: ValidateOptions) -> None:
    for option, limit in (
        ("--max-memory-error", options.limits.memory_pct),
        ("--max-time-error", options.limits.time_pct),
    ):
        if limit is not None and not 0 <= limit < float("inf"):
            raise usage_error(
                f"{option} has to be a percentage from 0 on, and it is {limit}",
                location=option,
                hint=f"for example `{option} 8`",
            )
    if options.worst < 0:
        raise usage_error(f"--worst has to be 0 or more, and it is {options.worst}", location="--worst", hint="use 10")
    out = options.out
    if out is not None and (out.is_dir() or not out.parent.is_dir()):
        what = "this is a folder" if out.is_dir() else "there is no such folder to write into"
        raise usage_error(what, location=str(out), hint="name a file with `--out predicted.csv`")


def document(report: Report, limits: Limits) -> dict[str, Any]:
    """The answer as one JSON document."""
    return {
        "sets": msgspec.to_builtins(report.sets),
        "rows": [row_document(one) for one in report.replays],
        "assumptions": report.assumptions,
        "over_limit": report.over(limits),
    }


def row_document(one: Replay) -> dict[str, Any]:
    """One row of the answer; the predictions are null where the row was skipped."""
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


def _error(pair: Pair | None) -> float | None:
    return None if pair is None else error_pct(*pair)


def _write_csv(path: Path, report: Report) -> None:
    """The rows as they were read, with the predicted columns behind them."""
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
