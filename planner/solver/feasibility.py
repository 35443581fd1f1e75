"""Whether a problem has an answer at all, and one good layout of it, without the exact model."""

from planner.layouts.layout import Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.rules import screen
from planner.solver import peak_memory, step_time
from planner.solver.candidates import enumerate_layouts
from planner.solver.fit import fit, fitting
from planner.solver.limits import StageLimits


def valid(problem: Problem, columns: LayoutColumns) -> LayoutColumns:
    """The layouts that keep every rule."""
    return columns.take(screen(problem, columns)[0]) if len(columns) else columns


def valid_layouts(problem: Problem) -> LayoutColumns:
    """The candidates that keep every rule."""
    return valid(problem, enumerate_layouts(problem, keeping_pins=True))


def some_fits(problem: Problem, columns: LayoutColumns) -> bool:
    """Whether one of the layouts keeps every rule and fits every memory."""
    kept = valid(problem, columns)
    return bool(len(kept) and fit(problem, kept).any())


def feasible(problem: Problem) -> bool:
    """Whether the search of ``problem`` finds a layout; decided by enumeration, rules and memories alone."""
    return some_fits(problem, enumerate_layouts(problem, keeping_pins=True))


def fitting_limits(problem: Problem) -> StageLimits | None:
    """The limits of the valid layouts that fit; ``None`` where there is none."""
    columns = valid_layouts(problem)
    return fitting(problem, columns)[0] if len(columns) else None


def good_layout(problem: Problem) -> Layout | None:
    """The layout with the best objective that is known before the exact model; ``None`` if none fits."""
    limits = fitting_limits(problem)
    return None if limits is None else best_known(problem, limits)


def best_known(problem: Problem, limits: StageLimits) -> Layout:
    """Of the layouts that fit, the one with the best objective that is known before the exact model."""
    ranked = (peak_memory if problem.objective == "memory" else step_time).rank(problem, limits)
    row = ranked.best_row()
    return ranked.layout(row, ranked.division(row), problem.precision)
