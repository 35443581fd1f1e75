"""Which plans the runtime executes: those that keep every rule under its own stack spec."""

import msgspec

from planner.diagnostics import ExitCode, PlanError
from planner.handover.work import STACK
from planner.plans.plan import Plan
from planner.rules import violations
from planner.specs import StackSpec
from planner.specs.files import load_spec


def check_supported(plan: Plan) -> None:
    """Refuse a plan that the runtime would not execute as it is written.

    The rules are judged with what this runtime can do, whatever the stack in the plan claims; only
    the padding of the vocabulary is the plan's to choose.

    Raises:
        PlanError: with one diagnostic for each rule that is broken.
    """
    own = load_spec(STACK, StackSpec)
    stack = msgspec.structs.replace(own, vocab_multiple=plan.problem.stack.vocab_multiple)
    broken = violations(msgspec.structs.replace(plan.problem, stack=stack), plan.layout)
    if broken:
        raise PlanError(*broken, exit_code=ExitCode.NEGATIVE)
