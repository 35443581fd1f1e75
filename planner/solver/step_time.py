"""The step-time objective: what may be left out by a bound, and the exact model of the rest."""

import math
from dataclasses import replace

import numpy as np

from planner.problem import Problem
from planner.solver.choice import ChoiceModel, ExactAnswer, Place
from planner.solver.limits import StageLimits
from planner.solver.ranked import Ranked
from planner.solver.tables import Affine, TimeTables, even_layers, least_maximum, lower_bounds, time_tables
from planner.stages import Floats, Integers


def rank(problem: Problem, limits: StageLimits) -> Ranked:
    """Bound every fitting layout from below and give each a good division of its layers.

    The division minimises the slowest stage and then the last tail, and is as even as that allows.
    """
    tables = time_tables(problem, limits)
    slowest = least_maximum(tables, tables.microbatch)
    bounds = _rounded(lower_bounds(tables))
    layers = even_layers(tables, slowest, _least_tail(tables, slowest))
    achieved = _rounded(tables.step(layers))
    return Ranked(limits=limits, lower_bound=bounds, achieved=achieved, layers=layers, unit=tables.tick_s)


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
    tables = time_tables(problem, ranked.limits, ranked.unit)
    choice = ChoiceModel(ranked.limits, problem.model.num_layers)
    scale = _add_step_time(choice, tables)
    best = ranked.best_row()
    choice.hint(best, ranked.layers_of(best))
    answer = choice.solve(time_limit_s)
    return replace(answer, objective=answer.objective / scale, bound=answer.bound / scale)


def _add_step_time(choice: ChoiceModel, tables: TimeTables) -> int:
    """Add the objective; returns how many of its units are a tick, for interleaved chunks."""
    model, scale = choice.model, math.lcm(*(int(chunks) for chunks in tables.num_chunks))
    most = tables.limits.most
    slowest = model.new_int_var(0, int(tables.microbatch.at(most).max()), "slowest_ticks")
    last = model.new_int_var(0, int(tables.tail.at(most).max()), "last_tail_ticks")
    step = model.new_int_var(0, scale * int(tables.step(most).max() + 1), "scaled_step_ticks")
    for row, chosen in enumerate(choice.chosen):
        places = choice.places(row)
        times = [_at(tables.microbatch, place) for place in places]
        for place, time in zip(places, times, strict=True):
            model.add(slowest >= time).only_enforce_if(chosen)
            model.add(last >= _at(tables.tail, place)).only_enforce_if(chosen)
        share = scale // int(tables.num_chunks[row])
        weight = scale * int(tables.num_microbatches[row]) - share
        outside = scale * int(tables.fixed[row])
        model.add(step >= outside + share * sum(times) + weight * slowest + scale * last).only_enforce_if(chosen)
    model.minimize(step)
    return scale


def _at(affine: Affine, place: Place):  # type: ignore[no-untyped-def]  # noqa: ANN202 - CP-SAT's own expression type
    return int(affine.base[place.row]) + int(affine.slope[place.row]) * place.layers
