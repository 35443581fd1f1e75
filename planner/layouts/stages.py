"""Pipeline stages as columns: one row for every stage of every layout."""

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import (
    FREE_RECOMPUTE,
    FULL_RECOMPUTE,
    LISTED_RECOMPUTE,
    NO_RECOMPUTE,
    SOME_RECOMPUTE,
    Layout,
    LayoutColumns,
    columns_of,
    once_per,
    once_per_table,
)
from planner.layouts.problem import Problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)
EVERY_LAYER = 2**20
"""More than any model has, as :data:`planner.layouts.layout.LayerCount` says."""


@dataclass(frozen=True, kw_only=True)
class StageColumns:
    """Stages of layouts, flattened; stages of one layout are adjacent and in order."""

    layouts: LayoutColumns
    """The layout of each stage, repeated."""
    layout_row: Integers
    """Row of that layout in the columns the stages were made from."""
    stage: Integers
    num_layers: Integers
    recompute_layers: Integers
    listed_recompute: Integers
    """What a pin says that each stage recomputes; 0 where no pin lists it."""
    most_of_some: Integers
    """The most layers that a stage recomputes where it recomputes some, beside one less than all of its own."""

    def __len__(self) -> int:
        """Number of stages over all layouts."""
        return len(self.stage)

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """Where the stage holds the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Where the stage holds the final norm, the head and the loss: under a V, where it also begins."""
        at_the_end = self.stage == self.layouts.pipeline_parallel - 1
        in_v = self.layouts.schedule_is("zbv")
        return np.where(in_v, self.is_first, at_the_end) if in_v.any() else at_the_end

    def fewest_recomputed(self) -> Integers:
        """The fewest of its layers that each stage may recompute, as its layout's column says.

        Stages of a V all do or none does, so that free ones recompute a layer at least.
        """
        some = (self.layouts.recompute == SOME_RECOMPUTE) | self.recomputes_in_v
        some = some.astype(np.int64)
        fewest = np.where(self.layouts.recompute == FULL_RECOMPUTE, self.num_layers, some)
        return self._as_listed(fewest)

    def most_recomputed(self) -> Integers:
        """The most of its layers that each stage may recompute; below the fewest where none is possible."""
        some = np.minimum(self.num_layers - 1, self.most_of_some)
        most = np.where(self.layouts.recompute == SOME_RECOMPUTE, some, self.num_layers)
        most = np.where(self.layouts.recompute == NO_RECOMPUTE, 0, most)
        return self._as_listed(most)

    @property
    def recomputes_as_listed(self) -> Booleans:
        """Where a pin lists how many layers the stages recompute."""
        return self.layouts.recompute == LISTED_RECOMPUTE

    def _as_listed(self, others: Integers) -> Integers:
        listed = self.recomputes_as_listed
        # Of a stage with fewer layers than it has to recompute, which no layout has, all of them.
        return np.where(listed, np.minimum(self.listed_recompute, self.num_layers), others) if listed.any() else others

    def may_recompute_more(self) -> Booleans:
        """Where a stage may choose how many layers it recomputes."""
        return np.isin(self.layouts.recompute, (SOME_RECOMPUTE, FREE_RECOMPUTE))

    @property
    def recomputes_in_v(self) -> Booleans:
        """Where stages of a V recompute, and compute the gradients of weights at once."""
        return self.layouts.schedule_is("zbv") & (self.layouts.recompute != NO_RECOMPUTE)

    def with_layers(self, num_layers: Integers) -> "StageColumns":
        """The same stages with other layers, of which they recompute the fewest they may."""
        stages = replace(self, num_layers=num_layers)
        return stages.with_recompute(stages.fewest_recomputed())

    def with_recompute(self, recompute_layers: Integers) -> "StageColumns":
        """The same stages and layers with other recomputed ones."""
        return replace(self, recompute_layers=recompute_layers)

    def take(self, rows: NDArray[np.bool_] | Integers) -> "StageColumns":
        """The stages that ``rows`` selects."""
        return StageColumns(
            layouts=self.layouts.take(rows),
            layout_row=self.layout_row[rows],
            stage=self.stage[rows],
            num_layers=self.num_layers[rows],
            recompute_layers=self.recompute_layers[rows],
            listed_recompute=self.listed_recompute[rows],
            most_of_some=self.most_of_some[rows],
        )

    def first_rows(self) -> Integers:
        """Row of the first stage of each layout, for ``np.add.reduceat`` and the like."""
        return np.flatnonzero(self.is_first)

    def spread(self, per_layout: NDArray[Scalar]) -> NDArray[Scalar]:
        """A column of layouts repeated for each of their stages."""
        return np.repeat(per_layout, self.layouts.pipeline_parallel[self.first_rows()])


once_per_stages = once_per(lambda stages: (stages,))
"""Once for the same problem and stages."""
once_per_places = once_per(lambda stages: (stages.layouts, stages.stage))
"""Once for the same problem, layouts and places in the pipeline.

For functions that do not look at the layers of a stage: :meth:`StageColumns.with_layers` and
:meth:`StageColumns.with_recompute` keep the layouts and places.
"""


@once_per_table
def stages_of(columns: LayoutColumns) -> StageColumns:
    """All stages of all layouts, with one layer each."""
    rows = np.repeat(np.arange(len(columns)), columns.pipeline_parallel)
    starts = np.cumsum(columns.pipeline_parallel) - columns.pipeline_parallel
    layouts = columns.take(rows)
    ones = np.ones(len(rows), dtype=np.int64)
    stages = StageColumns(
        layouts=layouts,
        layout_row=rows,
        stage=np.arange(len(rows)) - np.repeat(starts, columns.pipeline_parallel),
        num_layers=ones,
        recompute_layers=ones,
        listed_recompute=np.zeros_like(ones),
        most_of_some=np.full_like(ones, EVERY_LAYER),
    )
    return stages.with_layers(ones)


def stages_of_layout(layout: Layout) -> StageColumns:
    """The stages of one whole layout, with its own layers and recomputed layers."""
    stages = stages_of(columns_of(layout))
    return StageColumns(
        layouts=stages.layouts,
        layout_row=stages.layout_row,
        stage=stages.stage,
        num_layers=np.array(layout.layers_per_stage, dtype=np.int64),
        recompute_layers=np.array(layout.recompute_layers_per_stage, dtype=np.int64),
        listed_recompute=stages.listed_recompute,
        most_of_some=stages.most_of_some,
    )


def padded_vocab(problem: Problem, columns: LayoutColumns) -> Integers:
    """Vocabulary rows after the stack padded them to a multiple of its own times the TP degree."""
    multiple = np.maximum(problem.stack.vocab_multiple * columns.tensor_parallel, 1)
    return -(-problem.model.vocab_size // multiple) * multiple


def microbatch_tokens(problem: Problem, columns: LayoutColumns) -> Floats:
    """Tokens of one micro batch."""
    return np.multiply(columns.micro_batch, problem.seq_len, dtype=np.float64)
