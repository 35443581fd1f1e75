"""A smallest set of requirements that no layout keeps together.

Every layout of the relaxed space, with every way to divide its layers, breaks a set of requirements.
Requirements conflict if each of these sets contains one of them, so a smallest conflict is a smallest
hitting set of the minimal ones. Two things follow from a set being smallest: no layout keeps all of it,
and without any one of its requirements some layout of the relaxed space keeps the rest.

Where every layout breaks something else too than what was typed of that set, the rest holds another
conflict, which is found the same way.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from ortools.sat.python import cp_model

from planner.diagnostics import Diagnostic
from planner.layouts.layout import LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.layouts.stages import Integers
from planner.solver.candidates import too_many
from planner.solver.choice import deterministic_solver
from planner.solver.feasibility import good_layout
from planner.solver.why_not.freedoms import Broken, Freedom, freedoms
from planner.solver.why_not.requirements import COUNT, FORBID, PIN, Requirement, holds, requirements

MAX_CONFLICTS = 3
"""Conflicts that are told; who is free of them may meet another."""
STAGES = 500_000
"""Stages of layouts that are judged by memory at once."""
MOST_STAGES = 10_000_000
"""Stages of layouts that are judged by memory in all, in less than a minute."""
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
    findings: tuple[Diagnostic | None, ...] = ()
    """For each requirement what its rule says of a layout that breaks it; ``None`` for what was typed."""


def conflicts_of(problem: Problem, relaxed: LayoutColumns, elsewhere: Problem | None = None) -> tuple[Conflict, ...]:
    """A smallest conflict of an infeasible problem, and those that are left without what was typed of it.

    Args:
        problem: a problem without a layout.
        relaxed: its relaxed space.
        elsewhere: the same problem on another number of devices where it has a layout, if one is known.
            With it the number of devices is part of the only conflict; else only where a layout of
            the relaxed space has another one.

    Raises:
        ValueError: the problem has a layout.
    """
    order = requirements(problem)
    known = [] if elsewhere is None else _on_other_count(elsewhere)
    left = minimal_misses(problem, relaxed, order, known)
    found: list[Conflict] = []
    while not found or (all(miss.broken for miss in left) and len(found) < MAX_CONFLICTS):
        chosen = smallest_hitting_set([miss.broken for miss in left], order)
        found.append(Conflict(requirements=chosen, witnesses=tuple(_witness(left, chosen, one) for one in chosen)))
        left = [replace(miss, broken=miss.broken - given_up(chosen)) for miss in left]
    return tuple(found)


def given_up(requirements: Iterable[Requirement]) -> Broken:
    """What a person would give up of a conflict: all that was typed, or everything if nothing was."""
    typed = frozenset(one for one in requirements if one.rule in (COUNT, PIN, FORBID))
    return typed or frozenset(requirements)


def _on_other_count(elsewhere: Problem) -> list[Miss]:
    """A layout that breaks nothing but the asked number of devices, if there is one."""
    layout = good_layout(elsewhere)
    if layout is None:
        return []
    broken = frozenset({Requirement(rule=COUNT)})
    return [Miss(broken=broken, layout=columns_of(layout), num_devices=elsewhere.num_devices)]


def _witness(misses: list[Miss], chosen: tuple[Requirement, ...], one: Requirement) -> Miss:
    private = [miss for miss in misses if miss.broken & set(chosen) == {one}]
    return min(private, key=lambda miss: len(miss.broken))


def minimal_misses(
    problem: Problem, columns: LayoutColumns, order: tuple[Requirement, ...], known: Iterable[Miss] = ()
) -> list[Miss]:
    """The minimal sets of requirements that the layouts of a space break, each with its first layout.

    Layouts that break the fewest rules come first. Those that break all of a set which is found already are not
    judged by memory: whatever they do not fit, their set is not minimal. ``known`` are sets found elsewhere.

    Raises:
        PlanError: layouts with more than :data:`MOST_STAGES` stages would have to be judged by memory.
    """
    found: list[Miss] = []
    for miss in known:
        found = _keep_minimal(found, miss)
    left = MOST_STAGES
    for groups in _waves(problem, columns, order):
        for freedom in freedoms(problem):
            rows, group_of = _open_rows(columns, freedom, groups, found)
            left -= int(columns.pipeline_parallel[rows].sum())
            if left < 0:
                raise too_many(problem, f"no answer, and layouts near it with more than {MOST_STAGES:,} stages")
            for block in _blocks(columns.pipeline_parallel[rows]):
                for miss in _misses(problem, columns, freedom, groups, rows[block], group_of[block]):
                    found = _keep_minimal(found, miss)
    return found


Group = tuple[Broken, Integers]
"""Layouts that break the same requirements by their columns alone, as rows in rising order."""


def _open_rows(
    columns: LayoutColumns, freedom: Freedom, groups: list[Group], found: list[Miss]
) -> tuple[Integers, Integers]:
    """The layouts of groups that are not known to break too much, in a freedom they can have; and their groups."""
    still_open = [number for number, (broken, _) in enumerate(groups) if not _is_known(found, broken | freedom.broken)]
    if not still_open:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    rows = np.concatenate([groups[number][1] for number in still_open])
    group_of = np.repeat(still_open, [len(groups[number][1]) for number in still_open])
    possible = freedom.possible(columns.take(rows))
    return rows[possible], group_of[possible]


def _misses(
    problem: Problem, columns: LayoutColumns, freedom: Freedom, groups: list[Group], rows: Integers, group_of: Integers
) -> Iterator[Miss]:
    """What the layouts in some rows break under one freedom, the first layout of each group and set of memories."""
    for memories, where in freedom.misfits(columns.take(rows)):
        numbers, firsts = np.unique(group_of[where], return_index=True)
        for number, row in zip(numbers.tolist(), rows[where][firsts].tolist(), strict=True):
            broken = groups[number][0] | freedom.broken | memories
            yield Miss(broken=broken, layout=columns.take(np.array([row])), num_devices=problem.num_devices)


def _blocks(num_stages: Integers) -> list[slice]:
    """Layouts, by their stages, in blocks that are judged by memory at once."""
    whole = np.cumsum(num_stages) // STAGES
    edges = [0, *(np.flatnonzero(np.diff(whole)) + 1).tolist(), len(whole)]
    return [slice(*pair) for pair in itertools.pairwise(edges) if pair[0] < pair[1]]


def _waves(problem: Problem, columns: LayoutColumns, order: tuple[Requirement, ...]) -> Iterator[list[Group]]:
    """The groups of all layouts: those that break nothing, those that break one requirement, and so on."""
    words = np.zeros((-(-len(order) // WORD), len(columns)), dtype=np.int64)
    # One bit for each requirement; whole rows as keys take a hundred times as long to sort.
    for number, requirement in enumerate(order):
        words[number // WORD] |= np.where(holds(problem, requirement, columns), 0, 1 << number % WORD)
    by_key = np.lexsort(words)
    keys = words[:, by_key]
    starts = np.flatnonzero(np.append(True, (keys[:, 1:] != keys[:, :-1]).any(axis=0)))
    groups = [(_named(words[:, rows[0]], order), np.sort(rows)) for rows in np.split(by_key, starts[1:])]
    groups.sort(key=lambda group: (len(group[0]), int(group[1][0])))
    for _, wave in itertools.groupby(groups, key=lambda group: len(group[0])):
        yield list(wave)


def _named(words: Integers, order: tuple[Requirement, ...]) -> Broken:
    """The requirements whose bits are set."""
    bits = [(int(word) >> bit) & 1 for word in words for bit in range(WORD)]
    return frozenset(itertools.compress(order, bits))


def _is_known(found: list[Miss], broken: Broken) -> bool:
    return any(miss.broken <= broken for miss in found)


def _keep_minimal(found: list[Miss], new: Miss) -> list[Miss]:
    if _is_known(found, new.broken):
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
    variables = {requirement: model.new_bool_var(requirement.rule) for requirement in used}
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
