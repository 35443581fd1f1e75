"""``runs``: what has run, and what runs."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Json, print_json
from planner.diagnostics import ExitCode
from planner.handover.options import Option


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``runs``."""

    folder: Annotated[Path, Option("A folder of runs, or of one.", is_argument=True)] = Path("runs")
    as_json: Json = False


def runs(options: Runs) -> int:
    """List runs: state, steps, loss, speed and the newest complete checkpoint of each."""
    from planner.launch.runs import runs_in
    from planner.outputs import say
    from planner.views.runs import runs_table
    from planner.views.terminal import print_content

    found = runs_in(options.folder)
    if options.as_json:
        print_json([one.document() for one in found])
    elif found:
        print_content(runs_table(found))
    else:
        say(f"there are no runs in {options.folder}")
    return ExitCode.OK
