"""``report``: make a page of a plan or of a run."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force, Json, print_json
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option
from planner.inputs import is_folder
from planner.outputs import STDOUT, tell, write_output


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``report``."""

    plan: Annotated[
        Path,
        Option("A plan that `gptplan solve` wrote, or the folder of a run.", metavar="FILE.plan|RUN", is_argument=True),
    ]
    output: Annotated[
        Path | None,
        Option("HTML file. [default: the plan's name, or report.html in the run's folder]", ("-o", "--output")),
    ] = None
    force: Force = False
    as_json: Json = False


def report(options: Report) -> int:
    """Write one HTML page of a plan, or of a run, whose curves, events and goodput are printed too."""
    if is_folder(options.plan):
        return _of_run(options)
    from planner.rules.reading import read_sound_plan
    from planner.views.report import report as page_of

    plan = read_sound_plan(options.plan)
    target = options.output or options.plan.with_suffix(".html")
    if target.resolve() == options.plan.resolve():
        raise usage_error("the page would replace the plan", location="-o", hint="name another file with `-o`")
    _write(page_of(plan), target, options)
    if options.as_json:
        print_json({"page": str(target)})
    return ExitCode.OK


def _of_run(options: Report) -> int:
    from planner.handover.metrics import read_records
    from planner.handover.work import METRICS_FILE, REPORT_FILE
    from planner.launch.runs import is_run, summary
    from planner.views.run import RunReport
    from planner.views.terminal import print_content

    folder = options.plan
    if not is_run(folder):
        raise usage_error(
            "this is not the folder of a run", location=str(folder), hint=f"`gptplan runs {folder}` lists those in it"
        )
    records = read_records(folder / METRICS_FILE)
    made, target = RunReport(summary(folder, records), records), options.output or folder / REPORT_FILE
    if options.as_json:
        print_json(made.document())
    elif target != STDOUT:
        print_content(*made.blocks())
    _write(made.page(), target, options)
    return ExitCode.OK


def _write(page: str, target: Path, options: Report) -> None:
    from planner.views.html import is_page

    if options.as_json and target == STDOUT:
        raise usage_error("--json and `-o -` both print", location="-o", hint="leave one of them out")
    write_output(page.encode(), target, what="page", ours=is_page, force=options.force)
    if target != STDOUT and not options.as_json:
        tell(f"page: {target}")
