"""Which layouts fit which memories, decided with as few looks at the memory model as possible."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from planner.layouts.asked import asked_stages
from planner.layouts.division import has_chunks
from planner.layouts.layout import FREE_RECOMPUTE, LISTED_RECOMPUTE, NO_RECOMPUTE, SOME_RECOMPUTE, LayoutColumns
from planner.layouts.pins import LAYERS
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Integers, StageColumns
from planner.solver.limits import (
    MEMORIES,
    Fits,
    StageLimits,
    fewest_layers,
    fits_somehow,
    limits_within,
    most_layers,
    one_division_each,
    pinned_stage_layers,
    stage_limits,
)


def fitting(problem: Problem, columns: LayoutColumns) -> tuple[StageLimits | None, Booleans]:
    """The limits of the layouts that fit every memory, and which of ``columns`` those are."""
    table = FitTable(problem, columns)
    fits = table.fit()
    return one_division_each(problem, stage_limits(problem, table.fitting())) if fits.any() else None, fits


def fit(problem: Problem, columns: LayoutColumns, where: Sequence[Fits] = MEMORIES) -> Booleans:
    """Layouts of which some division of the layers fits all of ``where``."""
    return FitTable(problem, columns, where).fit()


def with_and_without(columns: LayoutColumns) -> tuple[LayoutColumns, Integers]:
    """The layouts, and those in a V whose stages are free to recompute without it too; with the rows they are of.

    With it all of their stages do: :meth:`planner.layouts.stages.StageColumns.fewest_recomputed`.
    """
    rows = np.arange(len(columns))
    free = np.flatnonzero(columns.schedule_is("zbv") & (columns.recompute == FREE_RECOMPUTE))
    if not len(free):
        return columns, rows
    rows = np.concatenate([rows, free])
    whole = columns.take(rows)
    recompute = whole.recompute.copy()
    recompute[len(columns) :] = NO_RECOMPUTE
    return replace(whole, recompute=recompute), rows


class FitTable:
    """Layouts and memories; which layouts fit which of them together.

    First each stage with its share of an even division, rounded up. Where no stage can hold that, nothing
    fits; where all can and any division will do, it fits. Only the others need the limits of their stages.
    """

    def __init__(
        self,
        problem: Problem,
        columns: LayoutColumns,
        where: Sequence[Fits] = MEMORIES,
        *,
        interleaved_is_even: bool = True,
    ) -> None:
        """Look at every stage with its share of the layers."""
        columns, self._asked = with_and_without(columns)
        self.problem, self.columns, self.where, self.even = problem, columns, where, interleaved_is_even
        self._most: dict[int, Integers] = {}
        pinned = _fits_as_pinned(problem, columns, where, interleaved_is_even=interleaved_is_even)
        if pinned is not None:
            self.some = self.all = pinned
            self._rows, self._stages = np.zeros(0, dtype=np.int64), None
            return
        stages = _telling_stages(problem, columns)
        share = -(-problem.model.num_layers // stages.layouts.pipeline_parallel)
        here, starts = stages.with_layers(share), stages.first_rows()
        each = [fits_somehow(problem, here, fits) for fits in where]
        self.some = [np.logical_or.reduceat(fits, starts) for fits in each]
        """For each memory: layouts of which some stage can hold its share."""
        free = _any_division(problem, columns, interleaved_is_even=interleaved_is_even)
        self.all = [np.logical_and.reduceat(fits, starts) & free for fits in each]
        """For each memory: layouts of which every stage can, if any division will do."""
        self._rows = np.flatnonzero(~np.logical_and.reduce(self.all))
        self._stages = asked_stages(problem, columns.take(self._rows)) if len(self._rows) else None

    def fit(self, memories: Iterable[int] | None = None) -> Booleans:
        """Layouts that fit some of the memories, by number, all at once; all of them unless told."""
        found = np.zeros(int(self._asked.max(initial=-1)) + 1, dtype=bool)
        np.logical_or.at(found, self._asked, self._fit(memories))
        return found

    def fitting(self) -> LayoutColumns:
        """The layouts that fit, those in a V that may recompute with it and without where either does."""
        return self.columns.take(self._fit(None))

    def _fit(self, memories: Iterable[int] | None) -> Booleans:
        numbers = list(range(len(self.where)) if memories is None else memories)
        if not numbers:
            return np.ones(len(self.columns), dtype=bool)
        found = np.logical_and.reduce([self.all[number] for number in numbers])
        some = np.logical_and.reduce([self.some[number] for number in numbers])
        if self._stages is not None and (some & ~found).any():
            most = np.min([self._most_layers(number) for number in numbers], axis=0)
            limits = limits_within(self.problem, self._stages, most, interleaved_is_even=self.even)
            found[self._rows] |= limits.fitting_layouts(self.problem.model.num_layers)
        return np.asarray(found)

    def _most_layers(self, number: int) -> Integers:
        """The most layers of each stage of ``_rows`` that a memory holds; 0 where it does not hold its share."""
        if number not in self._most:
            assert self._stages is not None
            counts = self.columns.pipeline_parallel[self._rows]
            asked = np.repeat(self.some[number][self._rows], counts)
            most = np.zeros(len(asked), dtype=np.int64)
            most[asked] = most_layers(self.problem, self._stages.take(asked), self.where[number]) if asked.any() else 0
            self._most[number] = most
        return self._most[number]


def _fits_as_pinned(
    problem: Problem, columns: LayoutColumns, where: Sequence[Fits], *, interleaved_is_even: bool
) -> list[Booleans] | None:
    """For each memory: layouts of which every stage fits with its pinned layers; ``None`` where none are pinned."""
    stages = asked_stages(problem, columns)
    layers = pinned_stage_layers(problem, stages, interleaved_is_even=interleaved_is_even)
    if layers is None:
        return None
    here, starts = stages.with_layers(layers), stages.first_rows()
    possible = (fewest_layers(problem, stages) <= layers) & (layers <= problem.model.num_layers)
    return [np.logical_and.reduceat(possible & fits_somehow(problem, here, fits), starts) for fits in where]


def _telling_stages(problem: Problem, columns: LayoutColumns) -> StageColumns:
    """The stages that tell for all: the first, the last, and of those between the first and the last one.

    Between the ends stages differ in the micro batches they hold, which fall from one to the next. Where a pin lists
    what they recompute each of them tells.
    """
    stages = asked_stages(problem, columns)
    behind = stages.layouts.pipeline_parallel - stages.stage
    return stages.take((np.minimum(stages.stage, behind - 1) <= 1) | stages.recomputes_as_listed)


def _any_division(problem: Problem, columns: LayoutColumns, *, interleaved_is_even: bool) -> Booleans:
    """Where every division of at most an even share for each stage is allowed."""
    whole = problem.model.num_layers % columns.pipeline_parallel == 0
    enough = columns.pipeline_parallel * np.where(columns.recompute == SOME_RECOMPUTE, 2, 1) <= problem.model.num_layers
    free = (columns.recompute != LISTED_RECOMPUTE) & (LAYERS not in problem.pins)
    free &= (
        -(-problem.model.num_layers // columns.pipeline_parallel)
        >= problem.model.dense_layers * columns.num_model_chunks
    )
    uneven = ~has_chunks(columns) if interleaved_is_even else np.ones(len(columns), dtype=bool)
    return np.asarray(enough & free & (whole | (uneven & problem.stack.uneven_stages)))
