"""How many layers each stage can hold: what the memory model, the host and the pins leave."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.memory import stage_memory
from planner.cost_model.reserve import usable_bytes
from planner.layouts.asked import asked_stages
from planner.layouts.division import even_layers, has_chunks, has_to_be_even, is_even
from planner.layouts.layout import SOME_RECOMPUTE, LayoutColumns
from planner.layouts.pins import asked_layers, pinned_layers
from planner.layouts.problem import Problem
from planner.layouts.stages import Integers, StageColumns


@dataclass(frozen=True, kw_only=True)
class StageLimits:
    """Stages of layouts with the fewest and the most layers each may hold."""

    stages: StageColumns
    fewest: Integers
    most: Integers
    """Below ``fewest`` where not even that fits."""

    def fitting_layouts(self, num_layers: int) -> NDArray[np.bool_]:
        """Per layout: whether some division of the layers respects all its stages' limits."""
        starts = self.stages.first_rows()
        possible = np.logical_and.reduceat(self.fewest <= self.most, starts)
        least, room = np.add.reduceat(self.fewest, starts), np.add.reduceat(self.most, starts)
        return np.asarray(possible & (least <= num_layers) & (num_layers <= room))

    def within_sum(self, num_layers: int) -> "StageLimits":
        """The same limits without counts that leave the other stages of a layout too many or too few layers."""
        starts = self.stages.first_rows()
        least, room = (
            self.stages.spread(np.add.reduceat(counts, starts)) - counts for counts in (self.fewest, self.most)
        )
        possible = self.stages.spread(self.fitting_layouts(num_layers))
        fewest = np.where(possible, np.maximum(self.fewest, num_layers - room), self.fewest)
        return replace(
            self, fewest=fewest, most=np.where(possible, np.minimum(self.most, num_layers - least), self.most)
        )

    def take_layouts(self, kept: NDArray[np.bool_]) -> "StageLimits":
        """The limits of the layouts that a mask over layouts keeps."""
        rows = self.stages.spread(kept)
        return StageLimits(stages=self.stages.take(rows), fewest=self.fewest[rows], most=self.most[rows])


def is_alike(problem: Problem) -> bool:
    """Whether all stages of a layout, and all of their chunks, recompute as many layers.

    Where stages may differ in layers, which no such stack allows, it is asked what would be possible.
    """
    return problem.stack.recompute == "alike" and not problem.stack.uneven_stages


def one_division_each(problem: Problem, limits: StageLimits) -> StageLimits:
    """Fitting layouts, one after the other for each division of their layers where all stages recompute alike.

    What one stage recomputes then hangs on the layers of the others. Divisions are even, and of one layout differ by
    whether the first or the last stage is the one with a layer less.
    """
    starts, num_layers = limits.stages.first_rows(), problem.model.num_layers
    if not is_alike(problem):
        return limits
    limits = limits.within_sum(num_layers)
    left = num_layers - np.add.reduceat(limits.fewest, starts)
    if not left.any():
        return limits
    fewest, stages = limits.fewest, limits.stages
    each = [np.where(end, limits.most, fewest) for end in (stages.is_first, stages.is_last)]
    whole = [stages.spread(np.add.reduceat(layers, starts) == num_layers) for layers in each]
    whole[1] &= stages.spread(left > 0)
    rows = np.flatnonzero(np.concatenate(whole))
    order = np.lexsort((rows // len(stages), stages.layout_row[rows % len(stages)]))
    rows = rows[order]
    taken, layers = stages.take(rows % len(stages)), np.concatenate(each)[rows]
    return StageLimits(
        stages=replace(taken, layout_row=np.cumsum(taken.stage == 0) - 1), fewest=layers, most=layers.copy()
    )


Fits = Callable[[Problem, StageColumns], NDArray[np.bool_]]


def fits_device(problem: Problem, stages: StageColumns) -> NDArray[np.bool_]:
    """Where the peak of a stage, with its layers and recomputed layers, leaves its reserve free."""
    return np.asarray(stage_memory(problem, stages).peak_bytes() <= usable_bytes(problem, stages))


def fits_host(problem: Problem, stages: StageColumns) -> NDArray[np.bool_]:
    """Where a node's host holds the offloaded states of ranks like those of the stage."""
    ranks = min(problem.devices_per_node, problem.num_devices)
    return np.asarray(host_bytes_per_rank(problem, stages) * ranks <= problem.hardware.host.memory_bytes)


def fits_nvme(problem: Problem, stages: StageColumns) -> NDArray[np.bool_]:
    """Where a node's NVMe holds the offloaded moments of ranks like those of the stage."""
    ranks = min(problem.devices_per_node, problem.num_devices)
    return np.asarray(nvme_bytes_per_rank(problem, stages) * ranks <= problem.hardware.host.nvme_capacity_bytes)


MEMORIES: tuple[Fits, ...] = (fits_device, fits_host, fits_nvme)
"""Everything that a layout has to fit, in the order of its rules."""
BLOCK = 100_000
"""Stages whose memory is worked out at once."""


def stage_limits(
    problem: Problem, columns: LayoutColumns, where: Sequence[Fits] = MEMORIES, *, interleaved_is_even: bool = True
) -> StageLimits:
    """Limits of every stage of every layout of a non-empty table, by the given memories.

    ``interleaved_is_even``: whether an interleaved schedule gives every stage equally many layers.
    """
    stages = asked_stages(problem, columns)
    most = np.min([most_layers(problem, stages, fits) for fits in where], axis=0)
    return limits_within(problem, stages, most, interleaved_is_even=interleaved_is_even)


def limits_within(
    problem: Problem, stages: StageColumns, most: Integers, *, interleaved_is_even: bool = True
) -> StageLimits:
    """Limits of stages that can hold at most ``most`` layers, with the pinned layers where there are some."""
    fewest = fewest_layers(problem, stages)
    wanted = pinned_stage_layers(problem, stages, interleaved_is_even=interleaved_is_even)
    if wanted is None:
        even = has_to_be_even(problem, stages.layouts)
        if not interleaved_is_even and problem.stack.uneven_stages:
            even = np.zeros_like(even)
        least, limit = even_layers(problem, stages, even)
    else:
        least = limit = wanted
    possible = (fewest <= limit) & (least <= most)
    return StageLimits(
        stages=stages,
        fewest=np.where(limit > 0, np.maximum(least, fewest), fewest),
        most=np.where(limit > 0, np.where(possible, np.minimum(limit, most), 0), most),
    )


def fewest_layers(problem: Problem, stages: StageColumns) -> Integers:
    """The fewest layers of each stage: one that it recomputes and one that it does not, where it has to have both.

    A stage has those that a pin lists for it to recompute. The first stage has all blocks without experts of a model
    whose others have some, in the first of its chunks.
    """
    fewest = np.maximum(np.where(stages.layouts.recompute == SOME_RECOMPUTE, 2, 1), stages.listed_recompute)
    if problem.model.dense_layers:
        dense = problem.model.dense_layers * stages.layouts.num_model_chunks
        fewest = np.where(stages.is_first, np.maximum(fewest, dense), fewest)
    return fewest


def pinned_stage_layers(problem: Problem, stages: StageColumns, *, interleaved_is_even: bool = True) -> Integers | None:
    """The layers of every stage where user or stack say them; more than the model has where that is impossible."""
    pinned = asked_layers(problem.pins, problem.stack)
    if pinned is None:
        return None
    return _wanted_layers(problem, stages, pinned, interleaved_is_even=interleaved_is_even)


def fits_somehow(problem: Problem, stages: StageColumns, fits: Fits) -> NDArray[np.bool_]:
    """Where a stage fits with the fewest or with the most layers recomputed that it may recompute.

    One of them needs the least: what a stage needs falls with each recomputed layer after the first.
    """
    fit = fits(problem, stages)
    if fits in (fits_host, fits_nvme):  # which activations do not touch
        return fit
    rows = np.flatnonzero(stages.may_recompute_more() & ~fit)
    if len(rows):
        some = stages.take(rows)
        fit[rows] = fits(problem, some.with_recompute(np.maximum(some.most_recomputed(), some.fewest_recomputed())))
    return fit


def most_layers(problem: Problem, stages: StageColumns, fits: Fits) -> Integers:
    """The largest layer count, 0 to all, at which each stage fits with some of its recomputed layers.

    Found by bisection of the stages that do not fit with all: what a stage needs never falls when it gets
    one more layer. Block by block, so that terms of memory take little themselves.
    """
    if len(stages) <= BLOCK:
        return _most_layers(problem, stages, fits)
    blocks = np.array_split(np.arange(len(stages)), -(-len(stages) // BLOCK))
    return np.concatenate([_most_layers(problem, stages.take(rows), fits) for rows in blocks])


def _most_layers(problem: Problem, stages: StageColumns, fits: Fits) -> Integers:
    everything = np.full(len(stages), problem.model.num_layers)
    most = np.where(fits_somehow(problem, stages.with_layers(everything), fits), everything, 0)
    rows = np.flatnonzero(most == 0)
    if len(rows):
        most[rows] = _bisected(problem, stages.take(rows), fits)
    return most


def _bisected(problem: Problem, stages: StageColumns, fits: Fits) -> Integers:
    """The largest layer count at which each stage fits, of stages that do not fit with all layers."""
    fits_up_to = np.zeros(len(stages), dtype=np.int64)
    fails_from = np.full(len(stages), problem.model.num_layers)
    for _ in range(problem.model.num_layers.bit_length()):
        middle = (fits_up_to + fails_from) // 2
        fit = fits_somehow(problem, stages.with_layers(middle), fits)
        open_ = fails_from - fits_up_to > 1
        fits_up_to = np.where(open_ & fit, middle, fits_up_to)
        fails_from = np.where(open_ & ~fit, middle, fails_from)
    return fits_up_to


def _wanted_layers(problem: Problem, stages: StageColumns, pinned: str, *, interleaved_is_even: bool) -> Integers:
    """The pinned layers of every stage; one more than the model has where a layout cannot have them."""
    columns = stages.layouts.take(stages.first_rows())
    even = np.full(len(columns), not problem.stack.uneven_stages)
    if interleaved_is_even:
        even |= has_chunks(columns)
    kinds = list(zip(columns.pipeline_parallel.tolist(), columns.num_model_chunks.tolist(), even.tolist(), strict=True))
    wanted = {kind: _pinned_or_too_many(problem, pinned, *kind) for kind in set(kinds)}
    return np.concatenate([wanted[kind] for kind in kinds])


def _pinned_or_too_many(
    problem: Problem, pinned: str, num_stages: int, num_chunks: int, is_even_asked: bool
) -> Integers:
    num_layers = problem.model.num_layers
    layers = pinned_layers(pinned, num_layers, num_stages)
    if layers is None or (is_even_asked and not is_even(problem, layers, num_chunks)):
        return np.full(num_stages, num_layers + 1)
    return np.array(layers)
