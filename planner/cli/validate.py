"""``validate``: measured runs against the cost model."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force, Json, answer_with_table, check_table, print_json
from planner.diagnostics import Diagnostic, ExitCode, render
from planner.handover.options import Option, Range
from planner.outputs import say, tabled
from planner.plans.question import GPU_NAMES
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

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
    facts: Annotated[
        Path | None, Option("What the tables do not say of their sets, in TOML (docs/validation-facts.md).")
    ] = None
    out: Annotated[Path | None, Option("Write the rows with predictions to a CSV file.")] = None
    force: Force = False
    as_json: Json = False


def validate(options: Validate) -> int:
    """Replay measured runs through the cost model and report the error; exit code 1 over a limit."""
    from planner.validation import Limits
    from planner.validation import validate as replayed
    from planner.validation.facts import read_facts
    from planner.validation.report import document, rows_csv
    from planner.validation.tables import OUTPUT_COLUMNS
    from planner.views.terminal import print_content
    from planner.views.validation import scores

    check_table(options.out, "predicted.csv", tabled(OUTPUT_COLUMNS), force=options.force)
    limits = Limits(options.max_memory_error, options.max_time_error)
    hardware = load_spec(options.gpu, HardwareSpec) if options.gpu is not None else None
    known = read_facts(options.facts) if options.facts is not None else None
    report = replayed(options.tables, options.sets, hardware, known)
    answer = document(report, limits) if options.as_json else None
    answer_with_table(
        options.out,
        lambda: rows_csv(report),
        tabled(OUTPUT_COLUMNS),
        answer,
        lambda: print_json(answer) if options.as_json else print_content(*scores(report, most=options.worst)),
        force=options.force,
    )
    over = report.over(limits)
    for message in over:
        say(render(Diagnostic(rule="VAL001", message=message)))
    return ExitCode.NEGATIVE if over else ExitCode.OK
