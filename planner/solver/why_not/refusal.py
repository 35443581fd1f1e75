"""Why there is no layout: a smallest conflict of requirements, and the cheapest ways out of it."""

from dataclasses import dataclass, replace

import msgspec
import numpy as np

from planner.diagnostics import Diagnostic
from planner.layouts.layout import FULL_RECOMPUTE, LISTED_RECOMPUTE, Layout, LayoutColumns
from planner.layouts.pins import LAYERS, listed_recompute
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.rules import screen
from planner.solver import limits
from planner.solver.candidates import too_many
from planner.solver.counts import nearest_counts
from planner.solver.fit import fit
from planner.solver.why_not.conflict import Conflict, Miss, conflicts_of
from planner.solver.why_not.freedoms import freedoms, judged_by_memory
from planner.solver.why_not.nearest import VALID, nearest_device_miss, nearest_node_miss
from planner.solver.why_not.relaxed import relaxed_layouts
from planner.solver.why_not.requirements import COUNT, FORBID, MEMORIES, PIN, Requirement, has_pinned, holds, rule_of
from planner.solver.why_not.ways_out import Way, ways_out

MOST_STAGES = 2_000_000
"""Stages of layouts among which the nearest is looked for."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a problem has no layout, and what would give it one."""

    problem: Problem
    conflicts: tuple[Conflict, ...]
    """At least one; each without what was typed of those before it."""
    ways: tuple[Way, ...]


def why_infeasible(problem: Problem) -> Refusal:
    """The conflicts of a problem without a layout, with what their rules say, and the ways out."""
    counts = nearest_counts(problem)
    known = counts.above or counts.below
    elsewhere = msgspec.structs.replace(problem, num_devices=known) if known is not None else None
    relaxed = relaxed_layouts(problem)
    conflicts = conflicts_of(problem, relaxed, elsewhere)
    named = [requirement for conflict in conflicts for requirement in conflict.requirements]
    return Refusal(
        problem=problem,
        conflicts=tuple(_with_findings(problem, relaxed, conflict) for conflict in conflicts),
        ways=tuple(ways_out(problem, named, counts)),
    )


def _with_findings(problem: Problem, relaxed: LayoutColumns, conflict: Conflict) -> Conflict:
    """With what the rules say, but not what they hint at: they know one layout, and the ways out have been tried."""
    found = [
        _finding(problem, relaxed, conflict, requirement, witness)
        for requirement, witness in zip(conflict.requirements, conflict.witnesses, strict=True)
    ]
    return replace(conflict, findings=tuple(one and msgspec.structs.replace(one, hint="") for one in found))


def _finding(
    problem: Problem, relaxed: LayoutColumns, conflict: Conflict, requirement: Requirement, witness: Miss
) -> Diagnostic | None:
    if requirement.rule in (COUNT, PIN, FORBID):
        return None
    if requirement not in MEMORIES:
        return rule_of(requirement).diagnose(problem, _whole(problem, witness.layout))
    contenders = _contenders(problem, relaxed, conflict, requirement)
    if requirement == MEMORIES[0]:
        return nearest_device_miss(problem, *contenders)
    return nearest_node_miss(problem, *contenders, rule_of(requirement))


def _whole(problem: Problem, columns: LayoutColumns) -> Layout:
    """One layout with its layers divided evenly, the first stages with those that are left over."""
    num_stages = int(columns.pipeline_parallel[0])
    each, more = divmod(problem.model.num_layers, num_stages)
    layers = [each + (stage < more) for stage in range(num_stages)]
    as_column_says = {FULL_RECOMPUTE: layers, LISTED_RECOMPUTE: listed_recompute(problem.pins)}
    recompute = as_column_says.get(int(columns.recompute[0])) or [0] * num_stages
    return columns.layout(0, layers, recompute, problem.precision)


def _contenders(
    problem: Problem, relaxed: LayoutColumns, conflict: Conflict, memory: Requirement
) -> tuple[LayoutColumns, str]:
    """Layouts that only this memory keeps from the conflict's other requirements, and what to call them.

    The valid ones among them, if there are any.
    """
    kept = judged_by_memory(problem, relaxed)
    for other in conflict.requirements:
        if other.field == LAYERS:
            kept &= np.logical_or.reduce([f.possible(relaxed) for f in freedoms(problem) if other not in f.broken])
        elif other != memory:
            kept &= holds(problem, other, relaxed)
    kept &= _fits_others(problem, relaxed, kept, conflict, memory)
    valid = kept & screen(problem, relaxed)[0]
    for field, value in problem.pins.items():
        valid &= has_pinned(relaxed, field, value)
    chosen, who = (valid, VALID) if valid.any() else (kept, "layout that keeps the other requirements")
    if (stages := int(relaxed.pipeline_parallel[chosen].sum())) > MOST_STAGES:
        raise too_many(problem, f"no answer, and {stages:,} stages of layouts that would come near one")
    return relaxed.take(chosen), who


def _fits_others(
    problem: Problem, relaxed: LayoutColumns, kept: Booleans, conflict: Conflict, memory: Requirement
) -> Booleans:
    """Which of the kept layouts fit the conflict's other memories; all of them if none does with the pinned layers."""
    others = [fits for one, fits in zip(MEMORIES, limits.MEMORIES, strict=True) if one in conflict.requirements]
    others.remove(limits.MEMORIES[MEMORIES.index(memory)])
    if not others or not kept.any():
        return kept
    fitting = kept.copy()
    fitting[kept] = fit(problem, relaxed.take(kept), others)
    return fitting if fitting.any() else kept
