"""Integer tables of the exact model, and the bounds that keep it small.

Times are whole nanoseconds. A stage with ``l`` layers takes ``base + slope * l`` for a micro batch
and again for the end of a step; a step of layout ``i`` takes
``fixed + sum t_s / v + (M - 1/v) max t_s + max tail_s``.
"""

from dataclasses import dataclass

import numpy as np

from planner.cost_model.communication import tied_embedding_seconds
from planner.cost_model.pipeline import stage_times
from planner.cost_model.terms import total
from planner.problem import Problem
from planner.solver.limits import StageLimits
from planner.stages import Floats, Integers

NANOSECOND = 1e-9


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``base + slope * layers`` of every stage, in nanoseconds."""

    base: Integers
    slope: Integers

    def at(self, layers: Integers) -> Integers:
        """Value at a number of layers per stage."""
        return self.base + self.slope * layers

    def layers_within(self, limit: Integers) -> Integers:
        """The most layers whose value stays within ``limit``; negative where none does."""
        return (limit - self.base) // np.maximum(self.slope, 1)


@dataclass(frozen=True, kw_only=True)
class TimeTables:
    """Everything the exact model needs of fitting layouts; stage columns are flattened."""

    limits: StageLimits
    starts: Integers
    """Row of the first stage of each layout."""
    microbatch: Affine
    tail: Affine
    fixed: Integers
    """Per layout: time outside stages, in nanoseconds."""
    num_microbatches: Integers
    num_chunks: Integers
    num_layers: int

    @property
    def num_stages(self) -> Integers:
        """Stages of each layout."""
        return self.limits.stages.layouts.pipeline_parallel[self.starts]

    def spread(self, per_layout: Integers) -> Integers:
        """A per-layout column repeated for each of its stages."""
        return np.repeat(per_layout, self.num_stages)

    def step(self, layers: Integers) -> Floats:
        """Step time of every layout with these layers per stage, in nanoseconds."""
        times, tails = self.microbatch.at(layers), self.tail.at(layers)
        return self.compose(
            np.add.reduceat(times, self.starts),
            np.maximum.reduceat(times, self.starts),
            np.maximum.reduceat(tails, self.starts),
        )

    def compose(self, time_sum: Integers, slowest: Integers, last: Integers) -> Floats:
        """Step time from the sum and maximum of stage times and the maximum tail, in nanoseconds."""
        chunks = self.num_chunks
        return self.fixed + time_sum / chunks + (self.num_microbatches - 1 / chunks) * slowest + last


def time_tables(problem: Problem, limits: StageLimits) -> TimeTables:
    """Build the tables of fitting layouts.

    Bases and slopes are read off the cost model at all layers and one more, so they are exact for a
    single stage, whose overlapped communication is not affine, and for all stages of a pipeline.
    """
    stages, num_layers = limits.stages, problem.model.num_layers
    everything = np.full(len(stages), num_layers)
    here = stage_times(problem, stages.with_layers(everything))
    beyond = stage_times(problem, stages.with_layers(everything + 1))
    starts = stages.first_rows()
    columns = stages.layouts
    tied = tied_embedding_seconds(problem, stages)[starts]
    return TimeTables(
        limits=limits,
        starts=starts,
        microbatch=_affine(total(here.microbatch), total(beyond.microbatch), num_layers),
        tail=_affine(total(here.tail), total(beyond.tail), num_layers),
        fixed=np.rint(tied / NANOSECOND).astype(np.int64),
        num_microbatches=columns.num_microbatches[starts],
        num_chunks=columns.num_model_chunks[starts],
        num_layers=num_layers,
    )


def _affine(here_s: Floats, beyond_s: Floats, num_layers: int) -> Affine:
    slope = beyond_s - here_s
    base = here_s - slope * num_layers
    as_integers = [np.rint(column / NANOSECOND).astype(np.int64) for column in (base, slope)]
    return Affine(base=as_integers[0], slope=as_integers[1])


def least_maximum(tables: TimeTables, affine: Affine) -> Integers:
    """Per layout: the least possible maximum of ``affine`` over its stages, by bisection.

    Exact: the smallest value within which the stages have room for all layers.
    """
    limits, starts = tables.limits, tables.starts
    low = np.maximum.reduceat(affine.at(limits.fewest), starts) - 1
    high = np.maximum(np.maximum.reduceat(affine.at(limits.most), starts), low + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        room = np.minimum(limits.most, affine.layers_within(tables.spread(middle)))
        enough = np.add.reduceat(room, starts) >= tables.num_layers
        enough &= np.logical_and.reduceat(room >= limits.fewest, starts)
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    return high


def lower_bounds(tables: TimeTables) -> Floats:
    """Per layout: a step time that no division of its layers beats, in nanoseconds."""
    starts = tables.starts
    bases = np.add.reduceat(tables.microbatch.base, starts)
    slopes = np.minimum.reduceat(tables.microbatch.slope, starts)
    return tables.compose(
        bases + slopes * tables.num_layers,
        least_maximum(tables, tables.microbatch),
        least_maximum(tables, tables.tail),
    )


def even_layers(tables: TimeTables, slowest: Integers, last: Integers) -> Integers:
    """The most even division of layers whose stage times and tails stay within the given maxima.

    Layers are dealt level by level; what does not fill a level goes to the middle stages first, as
    far from the embedding and the head as possible. The maxima must be attainable.
    """
    limits = tables.limits
    room = np.minimum(limits.most, tables.microbatch.layers_within(tables.spread(slowest)))
    room = np.minimum(room, tables.tail.layers_within(tables.spread(last)))
    return deal_evenly(limits, room, tables.num_layers)


def deal_evenly(limits: StageLimits, room: Integers, num_layers: int) -> Integers:
    """Deal the layers of every layout to its stages, each within its fewest layers and ``room``.

    All stages rise together, level by level. The layers that do not fill a last level go one by one
    to the stages nearest to the middle. The room must suffice.
    """
    stages, starts = limits.stages, limits.stages.first_rows()
    counts = stages.layouts.pipeline_parallel[starts]
    level = np.zeros(len(starts), dtype=np.int64)
    above = np.full(len(starts), num_layers + 1)
    while (above - level > 1).any():
        middle = (level + above) // 2
        dealt = np.add.reduceat(np.clip(np.repeat(middle, counts), limits.fewest, room), starts)
        level, above = np.where(dealt <= num_layers, middle, level), np.where(dealt <= num_layers, above, middle)
    layers = np.clip(np.repeat(level, counts), limits.fewest, room)
    left_over = num_layers - np.add.reduceat(layers, starts)
    can_rise = (layers == np.repeat(level, counts)) & (layers < room)
    from_middle = np.abs(2 * stages.stage + 1 - np.repeat(counts, counts))
    order = np.lexsort((from_middle, ~can_rise, stages.layout_row))
    place = np.empty_like(order)
    place[order] = np.arange(len(order)) - np.repeat(starts, counts)
    return np.asarray(layers + (can_rise & (place < np.repeat(left_over, counts))))
