"""``show`` and ``check``: read a plan and judge it."""

from pathlib import Path
from typing import Any

from planner.cli.output import print_json
from planner.cost_model import predict
from planner.diagnostics import Diagnostic, ExitCode
from planner.plans.plan import Plan, read_plan
from planner.rules import violations
from planner.rules.capacity import misfits
from planner.specs.files import to_builtins
from planner.views import explain as tables


def show(path: Path, *, as_json: bool) -> int:
    """Print a plan that passes its own checks."""
    plan = read_plan(path)
    if as_json:
        print_json(to_builtins(plan))
    else:
        tables.print_plan(plan)
    return ExitCode.OK


def judged(plan: Plan) -> tuple[list[Diagnostic], list[Diagnostic], dict[str, Any]]:
    """Rules that the layout of a plan breaks, what does not fit, and the JSON of ``check``."""
    broken = violations(plan.problem, plan.layout)
    predicted = None if broken else predict(plan.problem, plan.layout)
    unfit = [] if predicted is None else misfits(plan.problem, plan.layout, predicted)
    document = {
        "valid": not broken,
        "fits": not broken and not unfit,
        "layout": to_builtins(plan.layout),
        "diagnostics": to_builtins([*broken, *unfit]),
        "predicted": to_builtins(predicted),
    }
    return broken, unfit, document


def check(path: Path, *, as_json: bool) -> int:
    """Judge the layout of a plan by all rules and the memory model."""
    plan = read_plan(path)
    broken, unfit, document = judged(plan)
    if as_json:
        print_json(document)
    else:
        tables.print_check(plan, [*broken, *unfit])
    return ExitCode.NEGATIVE if broken or unfit else ExitCode.OK
