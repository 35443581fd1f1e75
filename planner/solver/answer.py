"""The outcome of a search."""

import msgspec

from planner.diagnostics import Diagnostic
from planner.layouts.layout import Layout
from planner.plans.plan import Plan, Space
from planner.plans.prediction import Prediction
from planner.solver.why_not.refusal import Refusal


class RunnerUp(msgspec.Struct, frozen=True, kw_only=True):
    """The best layout of another choice than the best one's, with its prediction."""

    layout: Layout
    predicted: Prediction
    variants: int
    """Fitting layouts of this choice: they differ in model chunks, tensor depth or in what divides nothing."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a search. ``plan`` is there unless the status is infeasible or unknown."""

    status: str
    objective: float | None
    bound: float | None
    gap: float | None
    solve_s: float
    space: Space
    refusal: Refusal | None = None
    """Why there is no layout, if there is none."""
    plan: Plan | None = None
    variants: int | None = None
    """Fitting layouts of the choice that the plan's layout is the best of."""
    runners_up: tuple[RunnerUp, ...] = ()


class NearestMiss(msgspec.Struct, frozen=True, kw_only=True):
    """The largest smaller device count that has valid layouts, none of which fits."""

    num_devices: int
    short_bytes: int | None
    """How much more memory each device would need for one of its layouts to fit, its layers divided at best.

    ``None`` where no amount helps."""
    reasons: tuple[Diagnostic, ...]


class LeastDevices(msgspec.Struct, frozen=True, kw_only=True):
    """The least device count on which a layout fits, and what excludes each smaller one."""

    num_devices: int | None
    """``None`` where no count up to ``most_devices`` fits."""
    most_devices: int
    excluded_by_bound: int
    """All counts up to this have less usable memory together than ``state_bytes``."""
    state_bytes: float
    """Training states that no layout avoids, over all devices together."""
    usable_bytes_per_device: float
    """The device's memory less the least reserve."""
    no_valid_layout: tuple[int, ...]
    """Counts above the bound without a layout that keeps the rules."""
    none_fits: tuple[int, ...]
    """Counts above the bound with valid layouts, none of which fits."""
    nearest_miss: NearestMiss | None
    """``None`` where no smaller count has a valid layout."""
