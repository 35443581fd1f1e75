"""How many of its layers a stage recomputes: the fewest with which it fits, or those with the least peak."""

from collections.abc import Callable

import numpy as np

from planner.cost_model.memory import stage_memory
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, Integers, StageColumns
from planner.solver.limits import fits_device, is_alike

Fit = Callable[[StageColumns], Booleans]


def least_peak_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """The least peak of each stage over all the layers that it may recompute.

    It is reached at an end: what a stage needs falls with each recomputed layer after the first.
    """
    return stage_memory(problem, with_least_peak(problem, stages)).peak_bytes()


def with_least_peak(problem: Problem, stages: StageColumns) -> StageColumns:
    """The stages with the recomputed layers of the least peak, the fewest among equals."""
    stages = stages.with_recompute(stages.fewest_recomputed())
    rows = np.flatnonzero(stages.may_recompute_more())
    if not len(rows):
        return stages
    some = stages.take(rows)
    most = np.maximum(some.most_recomputed(), some.recompute_layers)
    peaks = [stage_memory(problem, some.with_recompute(r)).peak_bytes() for r in (some.recompute_layers, most)]
    recompute = stages.recompute_layers.copy()
    recompute[rows] = np.where(peaks[1] < peaks[0], most, some.recompute_layers)
    return stages.with_recompute(recompute)


def with_needed(problem: Problem, stages: StageColumns) -> StageColumns:
    """The stages with the fewest recomputed layers with which they fit their devices; see :func:`needed`."""
    return stages.with_recompute(needed(stages, lambda some: fits_device(problem, some), alike=is_alike(problem)))


def needed(stages: StageColumns, fits: Fit, *, alike: bool = False) -> Integers:
    """The fewest recomputed layers with which each stage, or if ``alike`` each layout, fits.

    The most that a stage may recompute where none does.
    """
    recompute = _of_each(stages, fits)
    return _alike(stages, recompute, fits) if alike else recompute


def _alike(stages: StageColumns, recompute: Integers, fits: Fit) -> Integers:
    """The fewest with which all stages of each layout fit, the same for all of them and for each of their chunks."""
    chunks, choose = stages.layouts.num_model_chunks, stages.may_recompute_more()
    but_some = (stages.num_layers - 1) // chunks * chunks
    most = np.where(stages.most_recomputed() < stages.num_layers, but_some, stages.num_layers)
    _, layout = np.unique(stages.layout_row, return_inverse=True)
    largest = np.zeros(len(stages), dtype=np.int64)
    np.maximum.at(largest, layout, recompute)
    recompute = np.where(choose, np.minimum(-(-largest[layout] // chunks) * chunks, most), recompute)
    while True:
        # A first recomputed layer may take more than it saves, on a stage that needs none of its own.
        short = choose & (recompute > 0) & (recompute < most)
        rows = np.flatnonzero(short)
        short[rows] = ~fits(stages.take(rows).with_recompute(recompute[rows])) if len(rows) else False
        more = np.isin(layout, layout[short])
        if not more.any():
            return recompute
        recompute = np.where(more, np.minimum(recompute + chunks, most), recompute)


def _of_each(stages: StageColumns, fits: Fit) -> Integers:
    """The fewest recomputed layers with which each stage fits by itself; the most it may recompute where none does.

    Found by bisection: what a stage needs falls with each recomputed layer after the first.
    """
    recompute = stages.fewest_recomputed()
    rows = np.flatnonzero(stages.may_recompute_more())
    rows = rows[~fits(stages.take(rows).with_recompute(recompute[rows]))] if len(rows) else rows
    if not len(rows):
        return recompute
    some = stages.take(rows)
    too_few, enough = recompute[rows], np.maximum(some.most_recomputed(), recompute[rows])
    while (enough - too_few > 1).any():
        middle = (too_few + enough) // 2
        fit = fits(some.with_recompute(middle))
        too_few, enough = np.where(fit, too_few, middle), np.where(fit, middle, enough)
    recompute[rows] = enough
    return recompute
