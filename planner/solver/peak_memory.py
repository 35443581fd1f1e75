"""The memory objective: the least possible peak of the fullest stage."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from planner.cost_model.memory import stage_memory
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Integers, StageColumns
from planner.solver.choice import ChoiceModel, ExactAnswer
from planner.solver.limits import StageLimits, is_alike
from planner.solver.ranked import Ranked
from planner.solver.recompute import least_peak_bytes, needed
from planner.solver.tables import deal_evenly


def rank(problem: Problem, limits: StageLimits) -> Ranked:
    """Find the least peak of every fitting layout, and the most even division of layers that has it."""
    num_layers, starts = problem.model.num_layers, limits.stages.first_rows()
    peaks = _peak_table(problem, limits)
    low = np.maximum.reduceat(np.take_along_axis(peaks, limits.fewest[None], axis=0)[0], starts) - 1
    high = np.maximum.reduceat(np.take_along_axis(peaks, limits.most[None], axis=0)[0], starts)
    while (high - low > 1).any():
        middle = (low + high) // 2
        room = _room(limits, peaks, middle)
        enough = np.add.reduceat(room, starts) >= num_layers
        enough &= np.logical_and.reduceat(room >= limits.fewest, starts)
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    layers = deal_evenly(limits, _room(limits, peaks, high), num_layers)
    reached = np.take_along_axis(peaks, layers[None], axis=0)[0]
    achieved = np.maximum.reduceat(reached, starts)
    recompute = _recompute_within(problem, limits.stages.with_layers(layers), limits.stages.spread(achieved))
    return Ranked(
        limits=limits,
        lower_bound=high.astype(np.float64),
        achieved=achieved.astype(np.float64),
        layers=layers,
        recompute=recompute,
        unit=1.0,
    )


def _recompute_within(problem: Problem, stages: StageColumns, limit_bytes: Integers) -> Integers:
    """The fewest recomputed layers with which each stage peaks within its limit."""
    limits = dict(zip(_keys(stages), limit_bytes.tolist(), strict=True))

    def fits(some: StageColumns) -> Booleans:
        allowed = np.array([limits[key] for key in _keys(some)])
        return np.asarray(np.ceil(stage_memory(problem, some).peak_bytes()) <= allowed)

    return needed(stages, fits, alike=is_alike(problem))


def _keys(stages: StageColumns) -> list[tuple[int, int]]:
    return list(zip(stages.layout_row.tolist(), stages.stage.tolist(), strict=True))


def _peak_table(problem: Problem, limits: StageLimits) -> NDArray[np.int64]:
    """Least peak in bytes by (layers of the stage, stage), over what the stage may recompute."""
    stages = limits.stages
    counts = np.arange(problem.model.num_layers + 1)
    peaks = [least_peak_bytes(problem, stages.with_layers(np.full(len(stages), n))) for n in counts]
    return np.ceil(np.array(peaks)).astype(np.int64)


def _room(limits: StageLimits, peaks: NDArray[np.int64], limit: Integers) -> Integers:
    """The most layers of each stage whose peak stays within its layout's ``limit``."""
    return np.minimum(limits.most, np.count_nonzero(peaks <= limits.stages.spread(limit), axis=0) - 1)


def solve_exactly(problem: Problem, ranked: Ranked, time_limit_s: float | None) -> ExactAnswer:
    """Choose layout and layers of the least peak among the layouts of ``ranked``."""
    limits, peaks = ranked.limits, _peak_table(problem, ranked.limits)
    choice = ChoiceModel(limits, problem.model.num_layers)
    largest = int(peaks.max())
    peak = choice.model.new_int_var(0, largest, "peak_bytes")
    for row in range(len(choice.chosen)):
        for place in choice.places(row):
            here = choice.model.new_int_var(0, largest, f"peak_{place.row}")
            choice.model.add_element(place.layers, peaks[:, place.row].tolist(), here)
            choice.model.add(peak >= here).only_enforce_if(place.chosen)
    choice.model.minimize(peak)
    best = ranked.best_row()
    choice.hint(best, ranked.division(best).layers)
    answer = choice.solve(time_limit_s)
    if answer.layout_row is None:
        return answer
    own = np.arange(len(limits.stages))[ranked.rows_of(answer.layout_row)]
    divided = limits.stages.take(own).with_layers(np.array(answer.layers))
    recompute = _recompute_within(problem, divided, np.full(len(divided), int(answer.objective)))
    return replace(answer, recompute=tuple(recompute.tolist()))
