"""Plans from files, judged by the rules before anything is shown or started: a digest says who wrote last, not what."""

from pathlib import Path

import msgspec

from planner.diagnostics import ExitCode, PlanError
from planner.plans.plan import Plan, read_plan
from planner.rules import violations


def read_sound_plan(path: Path) -> Plan:
    """Read a plan whose layout keeps every rule.

    Raises:
        PlanError: as :func:`planner.plans.plan.read_plan` does, or with exit code 1 and each rule that is broken.
    """
    plan = read_plan(path)
    broken = [
        msgspec.structs.replace(one, location=f"{path}: {one.location}")
        for one in violations(plan.problem, plan.layout)
    ]
    if broken:
        raise PlanError(*broken, exit_code=ExitCode.NEGATIVE)
    return plan
