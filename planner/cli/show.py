"""``show``: print a plan."""

from planner.cli.parameters import OnePlan, print_json
from planner.diagnostics import ExitCode
from planner.specs.files import to_builtins


def show(options: OnePlan) -> int:
    """Print a plan: layout, predicted time and memory, and what was proven."""
    from planner.rules.reading import read_sound_plan
    from planner.views.caveats import caveats
    from planner.views.plan import from_file
    from planner.views.terminal import print_content

    plan = read_sound_plan(options.plan)
    if options.as_json:
        print_json(to_builtins(plan) | {"warnings": to_builtins(caveats(plan))})
    else:
        print_content(*from_file(plan))
    return ExitCode.OK
