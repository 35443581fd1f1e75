"""The step-time objective: what may be left out by a bound, and the exact model of the rest."""

import math
from dataclasses import replace

import numpy as np

from planner.cost_model.zero_bubble import least_v_seconds, v_seconds
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, Integers
from planner.layouts.zero_bubble import LEAST_STEADY
from planner.solver.choice import ChoiceModel, ExactAnswer, Place
from planner.solver.dividing import best_division
from planner.solver.limits import StageLimits
from planner.solver.ranked import Ranked
from planner.solver.recompute import with_needed
from planner.solver.tables import (
    Affine,
    TimeTables,
    even_layers,
    least_maximum,
    lower_bounds,
    recompute_ticks,
    stepped,
    time_tables,
    window,
)

EFFORT = 1.0
"""Deterministic seconds of CP-SAT after which each layout left is divided by itself."""


def rank(problem: Problem, limits: StageLimits) -> Ranked:
    """Bound every fitting layout from below and give each a good division of its layers.

    First as if each stage recomputed as little as it may, with the recomputation that its division then
    needs on top. Where that leaves a layout in the race, once more with what every number of layers needs. Of a V that
    recomputes the steps are played that can be the best; of others it is told what they take at least.
    """
    tables = time_tables(problem, limits)
    ranked = _with_played(problem, tables, _ranked(problem, tables))
    chosen = ranked.promising() & _chooses(tables)
    if not chosen.any():
        return ranked
    return _with_steps(problem, ranked, chosen)


def _chooses(tables: TimeTables) -> Booleans:
    """Layouts whose stages choose how many layers they recompute; in a V they have one division, which tells it."""
    stages = tables.limits.stages
    return (stages.may_recompute_more() & ~stages.layouts.schedule_is("zbv"))[tables.starts]


def _ranked(problem: Problem, tables: TimeTables) -> Ranked:
    """Bounds and divisions by tables; a division minimises the slowest stage and then the last tail, evenly."""
    slowest = least_maximum(tables, tables.microbatch)
    layers = even_layers(tables, slowest, _least_tail(tables, slowest))
    divided = with_needed(problem, tables.limits.stages.with_layers(layers))
    is_affine = isinstance(tables.microbatch, Affine)
    achieved = _rounded(tables.step(layers, recompute_ticks(problem, divided, tables.tick_s) if is_affine else 0))
    return Ranked(
        limits=tables.limits,
        # Of steps of very many ticks floating point rounds the one up and the other down.
        lower_bound=np.minimum(_rounded(lower_bounds(tables)), achieved),
        achieved=achieved,
        layers=layers,
        recompute=divided.recompute_layers,
        unit=tables.tick_s,
    )


def _with_played(problem: Problem, tables: TimeTables, ranked: Ranked) -> Ranked:
    """The layouts with the steps of those in a V that recompute as they are played, where these can be the best.

    The others of them are no faster than their bounds, and have what the formula of other schedules gives them.
    """
    stages, starts, unit = tables.limits.stages, tables.starts, ranked.unit
    waiting = stages.recomputes_in_v[starts]
    if not waiting.any():
        return ranked
    outside = tables.fixed + np.maximum.reduceat(tables.tail.at(ranked.layers), starts)
    slowest = np.maximum.reduceat(tables.microbatch.at(ranked.layers), starts)
    bounds, achieved = ranked.lower_bound.copy(), ranked.achieved.copy()
    bounds[waiting] = (outside + tables.num_microbatches * slowest)[waiting]
    best = achieved[~waiting].min(initial=np.inf)
    whole = stages.with_layers(ranked.layers).with_recompute(ranked.recompute)
    near = waiting & (bounds <= best)
    if near.any():
        least_s = least_v_seconds(problem, whole.take(stages.spread(near)))
        bounds[near] = np.floor(outside[near] + least_s / unit)
    stages_each, count = tables.num_stages, np.minimum(tables.num_microbatches, LEAST_STEADY * tables.num_stages)
    while (left := waiting & (bounds <= best)).any():
        first = np.flatnonzero(left)[bounds[left].argmin()]
        alike = left & (stages_each == stages_each[first]) & (count == count[first])
        seconds = v_seconds(problem, whole.take(stages.spread(alike)))
        achieved[alike] = bounds[alike] = np.rint(outside[alike] + seconds / unit)
        best, waiting = min(best, achieved[alike].min()), waiting & ~alike
    achieved[waiting] = np.maximum(achieved, bounds)[waiting]
    return replace(ranked, achieved=achieved, lower_bound=bounds)


def _with_steps(problem: Problem, ranked: Ranked, chosen: Booleans) -> Ranked:
    """Better bounds and divisions of the ``chosen`` layouts; one that cannot keep up gets a bound that says so."""
    best = float(ranked.achieved.min())
    part = ranked.take(chosen)
    tables = time_tables(problem, part.limits, ranked.unit)
    within = window(tables, best)
    beyond = tables.fixed + tables.num_microbatches * (within.slowest + 1)
    bounds = np.where(within.possible, part.lower_bound, np.maximum(part.lower_bound, beyond))
    part = replace(part, lower_bound=bounds)
    if within.possible.any():
        limits = within.limits.take_layouts(within.possible)
        alive = time_tables(problem, limits, ranked.unit)
        better = _ranked(problem, stepped(problem, alive, limits))
        part = part.improved(within.possible, _no_worse(part.take(within.possible), better))
    return ranked.improved(chosen, part)


def _no_worse(known: Ranked, better: Ranked) -> Ranked:
    """Of two divisions of each layout the faster one, and of two bounds the higher one."""
    faster = better.achieved < known.achieved
    picked = known.improved(faster, better.take(faster)) if faster.any() else known
    return replace(picked, lower_bound=np.maximum(known.lower_bound, better.lower_bound))


def _rounded(step_ticks: Floats) -> Floats:
    # Sums of integers and chunk fractions: rounding keeps equal steps equal.
    return np.round(step_ticks, 3)


def _least_tail(tables: TimeTables, slowest: Integers) -> Integers:
    """The least maximum tail among divisions that attain the least slowest stage."""
    room = np.minimum(tables.limits.most, tables.microbatch.layers_within(tables.spread(slowest)))
    narrowed = replace(tables, limits=replace(tables.limits, most=room))
    return least_maximum(narrowed, tables.tail)


def solve_exactly(problem: Problem, ranked: Ranked, time_limit_s: float | None) -> ExactAnswer:
    """Choose layout and layers of the least step time among the layouts of ``ranked``."""
    tables = exact_tables(problem, ranked)
    choice = ChoiceModel(tables.limits, problem.model.num_layers)
    scale = _add_step_time(choice, tables)
    best = ranked.best_row()
    choice.hint(best, ranked.division(best).layers)
    answer = choice.solve(time_limit_s, EFFORT)
    answer = replace(answer, objective=answer.objective / scale, bound=answer.bound / scale)
    if answer.spent and answer.status in ("feasible", "unknown"):
        answer = _by_division(tables, ranked, answer)
    if answer.layout_row is None:
        return answer
    own = np.arange(len(tables.limits.stages))[ranked.rows_of(answer.layout_row)]
    divided = tables.limits.stages.take(own).with_layers(np.array(answer.layers))
    return replace(answer, recompute=tuple(with_needed(problem, divided).recompute_layers.tolist()))


def _by_division(tables: TimeTables, ranked: Ranked, answer: ExactAnswer) -> ExactAnswer:
    """The optimum of layouts whose divisions CP-SAT does not find in time: each by itself, the most promising first."""
    best = min(answer.objective, float(ranked.achieved.min()))
    for row in np.argsort(ranked.lower_bound, kind="stable").tolist():
        found = best_division(tables, row, best)
        if found is not None:
            best = found.step
            answer = replace(answer, layout_row=row, layers=found.layers, objective=best)
    return replace(answer, status="optimal", objective=best, bound=best)


def exact_tables(problem: Problem, ranked: Ranked) -> TimeTables:
    """The tables of layouts that are all promising, exact also where stages choose what they recompute."""
    tables = time_tables(problem, ranked.limits, ranked.unit, ranked.achieved)
    if not _chooses(tables).any():
        return tables
    return stepped(problem, tables, window(tables, float(ranked.achieved.min())).limits)


def _add_step_time(choice: ChoiceModel, tables: TimeTables) -> int:
    """Add the objective; returns how many of its units are a tick, for interleaved chunks."""
    model, scale = choice.model, math.lcm(*(int(chunks) for chunks in tables.num_chunks))
    most = tables.limits.most
    slowest = model.new_int_var(0, int(tables.microbatch.at(most).max()), "slowest_ticks")
    last = model.new_int_var(0, int(tables.tail.at(most).max()), "last_tail_ticks")
    step = model.new_int_var(0, scale * int(tables.step(most).max() + 1), "scaled_step_ticks")
    for row, chosen in enumerate(choice.chosen):
        places = choice.places(row)
        times = [_stage_time(choice, tables, place) for place in places]
        for place, time in zip(places, times, strict=True):
            model.add(slowest >= time).only_enforce_if(chosen)
            model.add(last >= _at(tables.tail, place)).only_enforce_if(chosen)
        share = scale // int(tables.num_chunks[row])
        weight = scale * int(tables.num_microbatches[row]) - share
        outside = scale * int(tables.fixed[row])
        model.add(step >= outside + share * sum(times) + weight * slowest + scale * last).only_enforce_if(chosen)
    model.minimize(step)
    return scale


def _stage_time(choice: ChoiceModel, tables: TimeTables, place: Place):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """The time of a micro batch on a stage, as an expression or as a variable of its own."""
    curve = tables.microbatch
    if isinstance(curve, Affine):
        return _at(curve, place)
    fewest, values = int(curve.fewest[place.row]), curve.of_stage(place.row)
    rises = np.diff(values)
    if len(values) == 1 or (rises == rises[0]).all():
        slope = int(rises[0]) if len(rises) else 0
        return int(values[0]) - slope * fewest + slope * place.layers
    return choice.looked_up(place.layers, fewest, values.tolist())


def _at(affine: Affine, place: Place):  # type: ignore[no-untyped-def]  # noqa: ANN202 - CP-SAT's own expression type
    return int(affine.base[place.row]) + int(affine.slope[place.row]) * place.layers
