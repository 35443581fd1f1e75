"""A smallest set of requirements that no layout keeps together.

Every layout of the relaxed space, with every way to divide its layers, breaks a set of requirements.
Requirements conflict if each of these sets contains one of them, so a smallest conflict is a smallest
hitting set of the minimal ones. Two things follow from a set being smallest: no layout keeps all of it,
and without any one of its requirements some layout of the relaxed space keeps the rest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from ortools.sat.python import cp_model

from planner.layout import LayoutColumns, columns_of
from planner.problem import Problem
from planner.solver.cp_sat import deterministic_solver
from planner.solver.divisions import Broken, divisions
from planner.solver.feasibility import good_layout
from planner.solver.relaxed import relaxed_layouts
from planner.solver.requirements import COUNT, Requirement, holds, requirements
from planner.stages import Integers

WORD = 48
"""Requirements whose bits go into one integer."""


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A set of requirements that a layout breaks, and nothing else."""

    broken: Broken
    layout: LayoutColumns
    """One layout that breaks them, as columns of one row."""
    num_devices: int


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A smallest set of requirements that no layout keeps together, in the order of their table."""

    requirements: tuple[Requirement, ...]
    witnesses: tuple[Miss, ...]
    """For each requirement a layout that keeps all the others of the set."""


def smallest_conflict(problem: Problem, elsewhere: Problem | None = None) -> Conflict:
    """Find a smallest conflict of an infeasible problem.

    Args:
        problem: a problem without a layout.
        elsewhere: the same problem on another number of devices where it has a layout, if one is known.
            With it the number of devices is part of every conflict; else only where a layout of
            the relaxed space has another one.
    """
    order = requirements(problem)
    misses = minimal_misses(problem, relaxed_layouts(problem), order)
    if elsewhere is not None:
        misses = _with_other_count(misses, elsewhere)
    chosen = smallest_hitting_set([miss.broken for miss in misses], order)
    return Conflict(requirements=chosen, witnesses=tuple(_witness(misses, chosen, one) for one in chosen))


def _with_other_count(misses: list[Miss], elsewhere: Problem) -> list[Miss]:
    count, layout = Requirement(rule=COUNT), good_layout(elsewhere)
    if layout is None:
        return misses
    known = Miss(broken=frozenset({count}), layout=columns_of(layout), num_devices=elsewhere.num_devices)
    return [known, *(miss for miss in misses if count not in miss.broken)]


def _witness(misses: list[Miss], chosen: tuple[Requirement, ...], one: Requirement) -> Miss:
    private = [miss for miss in misses if miss.broken & set(chosen) == {one}]
    return min(private, key=lambda miss: len(miss.broken))


def minimal_misses(problem: Problem, columns: LayoutColumns, order: tuple[Requirement, ...]) -> list[Miss]:
    """The minimal sets of requirements that the layouts of a space break, each with its first layout."""
    breaks = np.array([~holds(problem, requirement, columns) for requirement in order]).T
    found: list[Miss] = []
    for division in divisions(problem):
        possible = np.flatnonzero(division.possible(columns))
        if not len(possible):
            continue
        for memories, where in division.misfits(columns.take(possible)):
            for by_rules, rows in _groups(breaks, possible[where], order):
                miss = Miss(
                    broken=by_rules | division.broken | memories, layout=columns.take(rows[:1]),
                    num_devices=problem.num_devices,
                )  # fmt: skip
                found = _keep_minimal(found, miss)
    return found


def _groups(breaks: np.ndarray, rows: Integers, order: tuple[Requirement, ...]) -> Iterator[tuple[Broken, Integers]]:
    """Layouts that break the same requirements, those that break the fewest first."""
    if not len(rows):
        return
    # One bit for each requirement; whole rows as keys take a hundred times as long to sort.
    words = [
        breaks[rows, at : at + WORD] @ (1 << np.arange(len(order[at : at + WORD]))) for at in range(0, len(order), WORD)
    ]
    by_key = np.lexsort(words)
    keys = np.stack(words, axis=1)[by_key]
    starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(axis=1)))
    groups = [rows[np.sort(group)] for group in np.split(by_key, starts[1:])]
    for group in sorted(groups, key=lambda group: (int(breaks[group[0]].sum()), int(group[0]))):
        yield frozenset(order[i] for i in np.flatnonzero(breaks[group[0]])), group


def _keep_minimal(found: list[Miss], new: Miss) -> list[Miss]:
    if any(miss.broken <= new.broken for miss in found):
        return found
    return [*(miss for miss in found if not new.broken <= miss.broken), new]


def smallest_hitting_set(sets: Iterable[Broken], order: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
    """The smallest set that meets all ``sets``; among equals the one that comes first in ``order``.

    Raises:
        ValueError: one of the sets is empty, so that nothing meets it.
    """
    sets = list(sets)
    if not all(sets):
        raise ValueError("a layout keeps every requirement: there is no conflict")
    used = [requirement for requirement in order if any(requirement in one for one in sets)]
    chosen: list[Requirement] = []
    size = len(_solve(sets, used, [], None) or ())
    left_out: set[Requirement] = set()
    for requirement in used:
        answer = _solve(sets, [one for one in used if one not in left_out], [*chosen, requirement], size)
        if len(chosen) < size and answer is not None:
            chosen.append(requirement)
        else:
            left_out.add(requirement)
    return tuple(chosen)


def _solve(
    sets: list[Broken], used: list[Requirement], taken: list[Requirement], size: int | None
) -> list[Requirement] | None:
    """A smallest hitting set among ``used`` with all of ``taken``; ``None`` if none has that size."""
    if any(not one & set(used) for one in sets):
        return None
    model = cp_model.CpModel()
    variables = {requirement: model.new_bool_var(requirement.title) for requirement in used}
    for one in sets:
        model.add_bool_or([variables[requirement] for requirement in used if requirement in one])
    for requirement in taken:
        model.add(variables[requirement] == 1)
    if size is not None:
        model.add(sum(variables.values()) <= size)
    model.minimize(sum(variables.values()))
    solver = deterministic_solver()
    if solver.solve(model) != cp_model.OPTIMAL:
        return None
    return [requirement for requirement in used if solver.boolean_value(variables[requirement])]
