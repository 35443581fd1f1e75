"""``report``: make a page of a plan."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force, PlanFile
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option
from planner.outputs import STDOUT, tell, write_output


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``report``."""

    plan: PlanFile
    output: Annotated[Path | None, Option("HTML file. [default: the plan's name]", ("-o", "--output"))] = None
    force: Force = False


def report(options: Report) -> int:
    """Write a plan as one HTML page: layout, memory, time, proof and assumptions."""
    from planner.rules.reading import read_sound_plan
    from planner.views.html import is_page
    from planner.views.report import report as page_of

    plan = read_sound_plan(options.plan)
    target = options.output or options.plan.with_suffix(".html")
    if target.resolve() == options.plan.resolve():
        raise usage_error("the page would replace the plan", location="-o", hint="name another file with `-o`")
    write_output(page_of(plan).encode(), target, what="page", ours=is_page, force=options.force)
    if target != STDOUT:
        tell(f"page: {target}")
    return ExitCode.OK
