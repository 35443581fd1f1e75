"""``check --as-plan``: a configuration written by hand as a sealed plan."""

import importlib.metadata

import msgspec

from planner import __version__
from planner.codes import Config
from planner.cost_model import predict
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.work import STACK
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.lint.check import Checked, best_layout
from planner.plans.plan import BY_HAND, FORMAT_VERSION, Evidence, Plan, Space, seal
from planner.plans.prediction import Prediction
from planner.rules import violations
from planner.rules.capacity import misfits
from planner.solver import Answer
from planner.specs import StackSpec
from planner.specs.files import load_spec


def by_hand(checked: Checked) -> Plan:
    """The layout as a sealed plan, whose evidence says that it was written by hand, and how far from the best it is.

    A layout of another framework is costed again on the stack that ``run`` executes.

    Raises:
        PlanError: the configuration is not valid, does not fit, or cannot be executed.
    """
    predicted, problem, layout = checked.predicted, checked.judged.problem, checked.judged.layout
    if predicted is None or problem is None or layout is None:
        raise _refused(checked, checked.no_prediction)
    if problem.stack.name == STACK:
        if checked.misfits:
            raise _refused(checked, "it does not fit")
        if checked.not_executed:
            raise _refused(checked, f"stack {STACK} does not execute it ({', '.join(checked.not_executed)})")
        return _sealed(problem, layout, predicted, checked.best)
    own = msgspec.structs.replace(problem, stack=load_spec(STACK, StackSpec))
    if broken := violations(own, layout):
        raise _refused(checked, f"stack {STACK}, which runs plans, does not execute it", *broken)
    there = predict(own, layout)
    if unfit := misfits(own, layout, there):
        raise _refused(checked, f"it does not fit on stack {STACK}, which runs plans", *unfit)
    return _sealed(own, layout, there, best_layout(own))


def _refused(checked: Checked, why: str, *findings: Diagnostic) -> PlanError:
    return PlanError(
        Diagnostic(
            rule=Config.NO_PLAN,
            message=f"this configuration cannot become a plan: {why}",
            location=checked.source.shown,
            detail="\n".join(f"{found.rule}: {found.message}" for found in findings),
            hint="see the findings of `gptplan check`" if not findings else "change what is named here",
        ),
        exit_code=ExitCode.NEGATIVE,
    )


def _sealed(problem: Problem, layout: Layout, predicted: Prediction, best: Answer | None) -> Plan:
    found = best.plan if best is not None else None
    bound = found.evidence.bound if found is not None else 0.0
    space = best.space if best is not None else Space(layouts=1, valid=1, fit=1, rejected={})
    evidence = Evidence(
        status=BY_HAND,
        objective=predicted.step_s,
        bound=bound,
        gap=(predicted.step_s - bound) / predicted.step_s,
        space=space,
        bounded_out=0,
        lowest_bounded_out=None,
        ortools_version=importlib.metadata.version("ortools"),
    )
    return seal(
        Plan(
            format_version=FORMAT_VERSION,
            gptplan_version=__version__,
            problem=problem,
            spec_digests={},
            layout=layout,
            predicted=predicted,
            evidence=evidence,
        )
    )
