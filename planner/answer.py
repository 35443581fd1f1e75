"""The outcome of a search."""

import msgspec

from planner.diagnostics import Diagnostic
from planner.evidence import Space
from planner.layout import Layout
from planner.plan import Plan
from planner.prediction import Prediction


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True):
    """A layout behind the best one, with its prediction."""

    layout: Layout
    predicted: Prediction


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a search. ``plan`` is there unless the status is infeasible or unknown."""

    status: str
    objective: float | None
    bound: float | None
    gap: float | None
    solve_s: float
    space: Space
    reasons: tuple[Diagnostic, ...] = ()
    plan: Plan | None = None
    runners_up: tuple[RunnerUp, ...] = ()
