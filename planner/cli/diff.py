"""``diff``: compare two plans."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Json, print_json
from planner.diagnostics import ExitCode
from planner.handover.options import Option
from planner.specs.files import to_builtins


class Diff(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``diff``."""

    first: Annotated[Path, Option("A plan.", metavar="A.plan", is_argument=True)]
    second: Annotated[Path, Option("Another plan.", metavar="B.plan", is_argument=True)]
    as_json: Json = False


def diff(options: Diff) -> int:
    """Compare two plans: what was asked, layouts, predicted figures, and which is faster and why."""
    from planner.plans.comparison import compare
    from planner.rules.reading import read_sound_plan
    from planner.views.diff import comparison
    from planner.views.terminal import print_content

    first, second = read_sound_plan(options.first), read_sound_plan(options.second)
    found = compare(first, second)
    if options.as_json:
        digests = {"first": first.digest, "second": second.digest}
        print_json({"plans": digests, "same": first.digest == second.digest, **to_builtins(found)})
        return ExitCode.OK
    # The files' names, or their paths where those are the same.
    same = options.first.name == options.second.name
    names = (str(options.first), str(options.second)) if same else (options.first.name, options.second.name)
    print_content(*comparison(found, names))
    return ExitCode.OK
