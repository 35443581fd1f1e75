"""``report``: make a page of a plan."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import PlanFile
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``report``."""

    plan: PlanFile
    output: Annotated[Path | None, Option("HTML file. [default: the plan's name]", ("-o", "--output"))] = None


def report(options: Report) -> int:
    """Write a plan as one HTML page: layout, memory, time, proof and assumptions."""
    from planner.plans.plan import read_plan, write_bytes
    from planner.views.report import report as page_of

    plan = read_plan(options.plan)
    target = options.output or options.plan.with_suffix(".html")
    if target.resolve() == options.plan.resolve():
        raise usage_error("the page would replace the plan", location="-o", hint="name another file with `-o`")
    if target.is_dir():
        raise usage_error("this is a folder", location=str(target), hint="name a file with `-o report.html`")
    write_bytes(page_of(plan).encode(), target, what="page")
    sys.stdout.write(f"page: {target}\n")
    return ExitCode.OK
