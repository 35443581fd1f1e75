"""Integer tables of the exact model, and the bounds that keep it small.

Times are whole ticks, a fraction of a nanosecond unless the steps are very long. A stage with ``l``
layers, of which it recomputes the fewest it may, takes ``base + slope * l`` for a micro batch and again
for the end of a step; a step takes ``M max t_s`` and
:func:`planner.cost_model.pipeline.pipeline_bubble`, the largest tail and ``fixed``.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from planner.cost_model.communication import message_wait_seconds, tied_embedding_seconds
from planner.cost_model.pipeline import pipeline_bubble, stage_times
from planner.cost_model.terms import total
from planner.cost_model.zero_bubble import v_seconds
from planner.layouts.layout import LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, Integers, StageColumns
from planner.solver.limits import StageLimits
from planner.solver.recompute import with_needed

FINEST_TICK_S = 1e-10
LARGEST_SUM = 2**58
"""Sums of the exact model stay below this, well within 64-bit integers."""
UNLIMITED_LAYERS = 2**31
"""What a stage may take whose time does not grow with its layers."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """``base + slope * layers`` of every stage, in ticks; no slope is negative."""

    base: Integers
    slope: Integers

    def at(self, layers: Integers) -> Integers:
        """Value at a number of layers per stage."""
        return self.base + self.slope * layers

    def layers_within(self, limit: Integers) -> Integers:
        """The most layers whose value stays within ``limit``; negative where none does."""
        within = (limit - self.base) // np.maximum(self.slope, 1)
        constant = np.where(limit >= self.base, UNLIMITED_LAYERS, -1)
        return np.where(self.slope == 0, constant, within)

    def least_sum(self, starts: Integers, num_layers: int) -> Integers:
        """Per layout: what no division of the layers sums up to less than."""
        return np.add.reduceat(self.base, starts) + np.minimum.reduceat(self.slope, starts) * num_layers


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """A value of every stage for every number of layers it may take; it never falls from one to the next."""

    fewest: Integers
    counts: Integers
    """Values of each stage, at least one: at ``fewest`` layers, at one more and so on."""
    values: Integers
    """Flattened, stage after stage."""

    @property
    def firsts(self) -> Integers:
        """Row of the first value of each stage."""
        return np.cumsum(self.counts) - self.counts

    def of_stage(self, stage: int) -> Integers:
        """The values of one stage."""
        first = int(self.firsts[stage])
        return self.values[first : first + int(self.counts[stage])]

    def rows(self, layers: Integers) -> Integers:
        """Row of the value at a number of layers per stage, the nearest one it has."""
        return np.asarray(self.firsts + np.clip(layers - self.fewest, 0, self.counts - 1))

    def at(self, layers: Integers) -> Integers:
        """Value at a number of layers per stage."""
        return self.values[self.rows(layers)]

    def layers_within(self, limit: Integers) -> Integers:
        """The most layers whose value stays within ``limit``; fewer than the fewest where none does."""
        within = self.values <= np.repeat(limit, self.counts)
        return np.asarray(self.fewest - 1 + np.add.reduceat(within.astype(np.int64), self.firsts))

    def least_sum(self, starts: Integers, num_layers: int) -> Integers:
        """Per layout: what no division of the layers sums up to less than.

        The Lagrangian bound with the best whole price of a layer: ``sum min (t(l) - price l) + price L``,
        which is concave in the price.
        """
        layouts = np.add.reduceat(self.counts, starts)
        layers = np.arange(len(self.values)) - np.repeat(self.firsts - self.fewest, self.counts)

        def bound(price: Integers) -> Integers:
            cheapest = np.minimum.reduceat(self.values - np.repeat(price, layouts) * layers, self.firsts)
            return np.add.reduceat(cheapest, starts) + price * num_layers

        low = np.zeros(len(starts), dtype=np.int64)
        high = np.maximum.reduceat(np.diff(self.values, append=self.values[-1:]), self.firsts[starts]).clip(1)
        while (high - low > 1).any():
            middle = (low + high) // 2
            rising = bound(middle + 1) >= bound(middle)
            low, high = np.where(rising, middle, low), np.where(rising, high, middle)
        return np.asarray(np.maximum(bound(low), bound(high)))


@dataclass(frozen=True, kw_only=True)
class TimeTables:
    """Everything the exact model needs of fitting layouts; stage columns are flattened."""

    tick_s: float
    limits: StageLimits
    starts: Integers
    """Row of the first stage of each layout."""
    microbatch: Affine | Stepped
    tail: Affine
    fixed: Integers
    """Per layout: time outside stages, in ticks; in a V with what its schedule takes more, or less, as it is played."""
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

    def step(self, layers: Integers, added: Integers | int = 0) -> Floats:
        """Step time of every layout with these layers per stage, in ticks.

        ``added``: what comes on top of a micro batch's time on each stage.
        """
        times, tails = self.microbatch.at(layers) + added, self.tail.at(layers)
        return self.compose(
            np.add.reduceat(times, self.starts),
            np.maximum.reduceat(times, self.starts),
            np.maximum.reduceat(tails, self.starts),
        )

    def compose(self, time_sum: Integers, slowest: Integers, last: Integers) -> Floats:
        """Step time from the sum and maximum of stage times and the maximum tail, in ticks."""
        bubble = pipeline_bubble(time_sum, slowest, self.num_chunks)
        return self.fixed + self.num_microbatches * slowest + bubble + last


def time_tables(
    problem: Problem, limits: StageLimits, tick_s: float | None = None, played: Floats | None = None
) -> TimeTables:
    """Build the tables of fitting layouts, in ticks of ``tick_s`` or the finest that is safe.

    Bases and slopes are read off the cost model at all layers and one more. The times of a pipeline's
    stages are affine; a single stage always has all layers, so its times there are its bases. ``played``: steps of
    layouts in a V, in such ticks, where they are known.
    """
    stages, num_layers = limits.stages, problem.model.num_layers
    everything = np.full(len(stages), num_layers)
    whole = stages.with_layers(everything)
    here, beyond = stage_times(problem, whole), stage_times(problem, stages.with_layers(everything + 1))
    starts, columns = stages.first_rows(), stages.layouts
    fixed_s = (tied_embedding_seconds(problem, stages) + message_wait_seconds(problem, stages))[starts]
    # A stage that recomputes everything takes less than twice as long.
    tick_s = tick_s or _finest_safe_tick_s(2.0 * total(here.microbatch), columns)
    single = columns.pipeline_parallel == 1
    tables = TimeTables(
        tick_s=tick_s,
        limits=limits,
        starts=starts,
        microbatch=_affine(total(here.microbatch) / tick_s, total(beyond.microbatch) / tick_s, num_layers, single),
        tail=_affine(total(here.tail) / tick_s, total(beyond.tail) / tick_s, num_layers, single),
        fixed=np.rint(fixed_s / tick_s).astype(np.int64),
        num_microbatches=columns.num_microbatches[starts],
        num_chunks=columns.num_model_chunks[starts],
        num_layers=num_layers,
    )
    return _with_played(problem, tables, played)


def _with_played(problem: Problem, tables: TimeTables, steps: Floats | None) -> TimeTables:
    """The tables with the steps of layouts in a V as they are played, which have one division of their layers each.

    What that takes more than the formula of the others, or less, is put to the time outside of stages. Steps that
    recompute are left out unless they are known: see :func:`planner.solver.step_time.rank`.
    """
    in_v = tables.limits.stages.layouts.schedule_is("zbv")[tables.starts]
    if not in_v.any():
        return tables
    layers, formula = tables.limits.fewest, tables.step(tables.limits.fewest)
    if steps is None:
        in_v = in_v & ~tables.limits.stages.recomputes_in_v[tables.starts]
        own = tables.limits.stages.with_layers(layers).take(tables.limits.stages.spread(in_v))
        last = np.maximum.reduceat(tables.tail.at(layers), tables.starts)
        steps = (tables.fixed + last).astype(np.float64)
        steps[in_v] += v_seconds(problem, own) / tables.tick_s
    more = np.where(in_v, np.rint(steps - formula), 0.0).astype(np.int64)
    return replace(tables, fixed=tables.fixed + more)


def recompute_ticks(problem: Problem, stages: StageColumns, tick_s: float) -> Integers:
    """What the layers that stages recompute beyond the fewest they may add to a micro batch, in ticks."""
    added = np.zeros(len(stages), dtype=np.int64)
    rows = np.flatnonzero(stages.recompute_layers > stages.fewest_recomputed())
    if len(rows):
        some = stages.take(rows)
        least = some.with_recompute(some.fewest_recomputed())
        more_s = total(stage_times(problem, some).microbatch) - total(stage_times(problem, least).microbatch)
        added[rows] = np.rint(more_s / tick_s).astype(np.int64)
    return added


def _finest_safe_tick_s(stage_times_s: Floats, columns: LayoutColumns) -> float:
    # A step sums at most M micro batches and the fill, times the common multiple of chunk counts.
    longest_s = float((stage_times_s * (columns.num_microbatches + columns.pipeline_parallel)).max())
    scale = math.lcm(*np.unique(columns.num_model_chunks).tolist())
    tick_s = FINEST_TICK_S
    while longest_s / tick_s * scale > LARGEST_SUM:
        tick_s *= 10
    return tick_s


def _affine(here: Floats, beyond: Floats, num_layers: int, single: Booleans) -> Affine:
    slope = np.rint(np.where(single, 0.0, beyond - here)).astype(np.int64)
    return Affine(base=np.rint(here).astype(np.int64) - slope * num_layers, slope=slope)


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many layers the stages may take if a step is to be no slower than a known one."""

    limits: StageLimits
    slowest: Integers
    """Per layout: the longest stage time that such a step allows, in ticks."""
    possible: Booleans
    """Per layout: whether its stages have room for all layers then."""


def window(tables: TimeTables, step_ticks: float) -> Window:
    """The window of steps of at most ``step_ticks``, which take at least ``fixed + M max t_s``."""
    slowest = ((step_ticks - tables.fixed) // tables.num_microbatches).astype(np.int64)
    most = np.minimum(tables.limits.most, tables.microbatch.layers_within(tables.spread(slowest)))
    limits = replace(tables.limits, most=most).within_sum(tables.num_layers)
    return Window(limits=limits, slowest=slowest, possible=limits.fitting_layouts(tables.num_layers))


def stepped(problem: Problem, tables: TimeTables, limits: StageLimits) -> TimeTables:
    """The tables with the layers of ``limits`` and with what each number of them has to recompute.

    In a V that is part of the step as it was played, outside of stages.
    """
    if not isinstance(tables.microbatch, Affine):
        raise TypeError("the tables are stepped already")
    counts = limits.most - limits.fewest + 1
    rows = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    layers = np.arange(len(rows)) - np.repeat(firsts - limits.fewest, counts)
    options = with_needed(problem, limits.stages.take(rows).with_layers(layers))
    added = np.where(options.recomputes_in_v, 0, recompute_ticks(problem, options, tables.tick_s))
    affine = Affine(base=tables.microbatch.base[rows], slope=tables.microbatch.slope[rows])
    values = affine.at(layers) + added
    return replace(tables, microbatch=Stepped(fewest=limits.fewest, counts=counts, values=values), limits=limits)


def least_maximum(tables: TimeTables, times: Affine | Stepped) -> Integers:
    """Per layout: the least possible maximum of ``times`` over its stages, by bisection.

    Exact: the smallest value within which the stages have room for all layers.
    """
    limits, starts = tables.limits, tables.starts
    low = np.maximum.reduceat(times.at(limits.fewest), starts) - 1
    high = np.maximum(np.maximum.reduceat(times.at(limits.most), starts), low + 1)
    while (high - low > 1).any():
        middle = (low + high) // 2
        room = np.minimum(limits.most, times.layers_within(tables.spread(middle)))
        enough = np.add.reduceat(room, starts) >= tables.num_layers
        enough &= np.logical_and.reduceat(room >= limits.fewest, starts)
        high = np.where(enough, middle, high)
        low = np.where(enough, low, middle)
    return high


def lower_bounds(tables: TimeTables) -> Floats:
    """Per layout: a step time that no division of its layers beats, in ticks."""
    return tables.compose(
        tables.microbatch.least_sum(tables.starts, tables.num_layers),
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
