"""Why there is no layout: a smallest conflict of requirements, and the cheapest ways out of it."""

import msgspec
import numpy as np

from planner.diagnostics import Diagnostic
from planner.layouts.layout import FULL_RECOMPUTE, Layout, LayoutColumns
from planner.layouts.pins import EVEN, LAYERS
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.rules import screen
from planner.solver import limits
from planner.solver.counts import nearest_counts
from planner.solver.fit import fit
from planner.solver.why_not.conflict import Conflict, Miss, conflicts_of
from planner.solver.why_not.divisions import divisions, judged_by_memory
from planner.solver.why_not.nearest import VALID, nearest_device_miss, nearest_node_miss, why_nothing_fits
from planner.solver.why_not.relaxed import relaxed_layouts
from planner.solver.why_not.requirements import COUNT, FORBID, MEMORIES, PIN, Requirement, holds, requirements, rule_of
from planner.solver.why_not.ways_out import ways_out

__all__ = ["CONFLICT", "why_infeasible", "why_nothing_fits"]

CONFLICT = "INF001"
"""The first reason: which requirements leave no layout together."""


def why_infeasible(problem: Problem) -> list[Diagnostic]:
    """Each conflict with one diagnostic for each of its requirements, and then the ways out."""
    counts = nearest_counts(problem)
    known = counts.above or counts.below
    elsewhere = msgspec.structs.replace(problem, num_devices=known) if known is not None else None
    relaxed = relaxed_layouts(problem)
    conflicts = conflicts_of(problem, relaxed, elsewhere)
    reasons = [reason for conflict in conflicts for reason in _told(problem, relaxed, conflict, conflicts[0])]
    named = [requirement for conflict in conflicts for requirement in conflict.requirements]
    return [*reasons, *ways_out(problem, named, counts)]


def _told(problem: Problem, relaxed: LayoutColumns, conflict: Conflict, first: Conflict) -> list[Diagnostic]:
    # The hints of the rules know one layout. Those of the ways out have been tried.
    errors = [
        msgspec.structs.replace(_diagnose(problem, relaxed, conflict, requirement, witness), hint="")
        for requirement, witness in zip(conflict.requirements, conflict.witnesses, strict=True)
    ]
    return [_summary(problem, conflict, besides=conflict is not first), *errors]


def _summary(problem: Problem, conflict: Conflict, *, besides: bool) -> Diagnostic:
    names = [_title(problem, requirement) for requirement in conflict.requirements]
    if len(names) == 1:
        message = "this requirement alone leaves no layout"
    else:
        message = f"these {len(names)} requirements together leave no layout, and any one less would leave one"
    without = [
        f"without {_title(problem, requirement)}: {_keeps(problem, conflict, requirement, witness)}"
        for requirement, witness in zip(conflict.requirements, conflict.witnesses, strict=True)
    ]
    return Diagnostic(
        rule=CONFLICT,
        message=f"{'apart from that, ' * besides}{message}: {', '.join(names)}",
        values={
            "requirements": [
                {"rule": requirement.rule, "field": requirement.field, "value": requirement.value}
                for requirement in conflict.requirements
            ]
        },
        detail="\n".join(without),
    )


def _keeps(problem: Problem, conflict: Conflict, requirement: Requirement, witness: Miss) -> str:
    """What a layout keeps that does not keep one of the conflict's requirements, and what else it does not keep."""
    alone, mesh = len(conflict.requirements) == 1, _mesh_of(witness)
    others = [one for one in requirements(problem) if one in witness.broken - {requirement}]
    also = ", ".join(_title(problem, one) for one in others)
    if alone:
        return f"{mesh} breaks {also}" if also else f"{mesh} breaks nothing else"
    return f"{mesh} keeps the others" + (f", and breaks {also}" if also else "")


def _title(problem: Problem, requirement: Requirement) -> str:
    return f"{COUNT} (--gpus {problem.num_devices})" if requirement.rule == COUNT else requirement.title


def _mesh_of(miss: Miss) -> str:
    columns = miss.layout
    degrees = (int(c[0]) for c in (columns.tensor_parallel, columns.pipeline_parallel, columns.data_parallel))
    tensor, pipeline, data = degrees
    return f"TP {tensor} x PP {pipeline} x DP {data} on {_gpus(tensor * pipeline * data)}"


def _diagnose(
    problem: Problem, relaxed: LayoutColumns, conflict: Conflict, requirement: Requirement, witness: Miss
) -> Diagnostic:
    if requirement.rule in (PIN, FORBID):
        return _typed(problem, requirement)
    if requirement.rule == COUNT:
        return _count(problem, witness)
    if requirement in MEMORIES:
        contenders = _contenders(problem, relaxed, conflict, requirement)
        if requirement == MEMORIES[0]:
            return nearest_device_miss(problem, *contenders)
        return nearest_node_miss(problem, *contenders, rule_of(requirement))
    layout = _whole(problem, witness.layout)
    diagnostic = rule_of(requirement).diagnose(problem, layout)
    return msgspec.structs.replace(diagnostic, location=f"{diagnostic.location} ({_mesh_of(witness)})")


def _typed(problem: Problem, requirement: Requirement) -> Diagnostic:
    word, detail = "pinned to" if requirement.rule == PIN else "forbidden to be", ""
    if requirement.field == LAYERS and requirement.value != EVEN:
        layers = [int(part) for part in requirement.value.split(",")]
        model = problem.model
        detail = f"{len(layers)} stages with {sum(layers)} layers in all; {model.name} has {model.num_layers} layers"
    return Diagnostic(
        rule=requirement.rule,
        message=f"{requirement.field} is {word} {requirement.value}",
        location=requirement.option,
        values={"field": requirement.field, "value": requirement.value},
        detail=detail,
    )


def _gpus(number: int) -> str:
    return f"{number} GPU" if number == 1 else f"{number} GPUs"


def _count(problem: Problem, witness: Miss) -> Diagnostic:
    return Diagnostic(
        rule=COUNT,
        message=f"TP x PP x DP has to be {_gpus(problem.num_devices)}",
        location=f"--gpus {problem.num_devices}",
        values={"num_devices": problem.num_devices},
        detail=f"{_mesh_of(witness)} would keep the other requirements",
    )


def _whole(problem: Problem, columns: LayoutColumns) -> Layout:
    """One layout with its layers divided evenly, the first stages with those that are left over."""
    num_stages = int(columns.pipeline_parallel[0])
    each, more = divmod(problem.model.num_layers, num_stages)
    layers = [each + (stage < more) for stage in range(num_stages)]
    recompute = layers if columns.recompute[0] == FULL_RECOMPUTE else [0] * num_stages
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
            kept &= np.logical_or.reduce([d.possible(relaxed) for d in divisions(problem) if other not in d.broken])
        elif other != memory:
            kept &= holds(problem, other, relaxed)
    kept &= _fits_others(problem, relaxed, kept, conflict, memory)
    valid = kept & screen(problem, relaxed)[0]
    if valid.any():
        return relaxed.take(valid), VALID
    return relaxed.take(kept), "layout that keeps the other requirements"


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
