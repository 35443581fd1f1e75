"""``diff`` and ``report``: read plans, compare two, make a page of one."""

import sys
from pathlib import Path

from planner.cli.output import print_json
from planner.diagnostics import ExitCode, usage_error
from planner.plans.comparison import compare
from planner.plans.plan import read_plan, write_bytes
from planner.specs.files import to_builtins
from planner.views import diff as diff_view
from planner.views.report_page import page


def diff(first_path: Path, second_path: Path, *, as_json: bool) -> int:
    """Print what differs between two plans, and which is faster."""
    first, second = read_plan(first_path), read_plan(second_path)
    found = compare(first, second)
    names = _names(first_path, second_path)
    if as_json:
        digests = {"first": first.digest, "second": second.digest}
        print_json({"plans": digests, "same": first.digest == second.digest, **to_builtins(found)})
    else:
        diff_view.print_comparison(found, names)
    return ExitCode.OK


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The files' names, or their paths where those are the same."""
    return (str(first), str(second)) if first.name == second.name else (first.name, second.name)


def report(path: Path, output: Path | None) -> int:
    """Write the page of a plan."""
    plan = read_plan(path)
    target = output or path.with_suffix(".html")
    if target.resolve() == path.resolve():
        raise usage_error("the page would replace the plan", location="-o", hint="name another file with `-o`")
    if target.is_dir():
        raise usage_error("this is a folder", location=str(target), hint="name a file with `-o report.html`")
    write_bytes(page(plan).encode(), target, what="page")
    sys.stdout.write(f"page: {target}\n")
    return ExitCode.OK
