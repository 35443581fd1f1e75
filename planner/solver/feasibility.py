"""Whether a problem has an answer at all, and one good layout of it, without the exact model."""

from planner.candidates import enumerate_layouts
from planner.layout import Layout
from planner.problem import Problem
from planner.rules import judge
from planner.solver import peak_memory, step_time
from planner.solver.fit import fitting
from planner.solver.limits import StageLimits


def fitting_limits(problem: Problem) -> StageLimits | None:
    """The limits of the valid layouts that fit; ``None`` where there is none."""
    columns = enumerate_layouts(problem)
    columns = columns.take(judge(problem, columns)[0])
    return fitting(problem, columns)[0] if len(columns) else None


def feasible(problem: Problem) -> bool:
    """Whether the search of ``problem`` finds a layout; decided by enumeration, rules and limits alone."""
    return fitting_limits(problem) is not None


def num_candidates(problem: Problem) -> int:
    """How many layouts a search looks at, a measure of its work."""
    return len(enumerate_layouts(problem))


def has_valid_layout(problem: Problem) -> bool:
    """Whether a layout keeps every rule, be it too large for the memories or not."""
    return bool(judge(problem, enumerate_layouts(problem))[0].any())


def good_layout(problem: Problem) -> Layout | None:
    """The layout with the best objective that is known before the exact model; ``None`` if none fits."""
    limits = fitting_limits(problem)
    if limits is None:
        return None
    ranked = (peak_memory if problem.objective == "memory" else step_time).rank(problem, limits)
    row = ranked.best_row()
    return ranked.layout(row, ranked.division(row), problem.precision)
