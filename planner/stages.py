"""Pipeline stages as columns: one row for every stage of every layout."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.layout import Layout, LayoutColumns, columns_of
from planner.problem import Problem

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


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

    def __len__(self) -> int:
        """Number of stages over all layouts."""
        return len(self.stage)

    @property
    def is_first(self) -> NDArray[np.bool_]:
        """Where the stage holds the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> NDArray[np.bool_]:
        """Where the stage holds the final norm, the head and the loss."""
        return self.stage == self.layouts.pipeline_parallel - 1

    def with_layers(self, num_layers: Integers) -> "StageColumns":
        """The same stages with other layers; recomputation follows the layout's column."""
        return StageColumns(
            layouts=self.layouts,
            layout_row=self.layout_row,
            stage=self.stage,
            num_layers=num_layers,
            recompute_layers=np.where(self.layouts.recompute == 1, num_layers, 0),
        )

    def take(self, rows: NDArray[np.bool_] | Integers) -> "StageColumns":
        """The stages that ``rows`` selects."""
        return StageColumns(
            layouts=self.layouts.take(rows),
            layout_row=self.layout_row[rows],
            stage=self.stage[rows],
            num_layers=self.num_layers[rows],
            recompute_layers=self.recompute_layers[rows],
        )

    def first_rows(self) -> Integers:
        """Row of the first stage of each layout, for ``np.add.reduceat`` and the like."""
        return np.flatnonzero(self.is_first)


def stages_of(columns: LayoutColumns) -> StageColumns:
    """All stages of all layouts, with one layer each."""
    rows = np.repeat(np.arange(len(columns)), columns.pipeline_parallel)
    starts = np.cumsum(columns.pipeline_parallel) - columns.pipeline_parallel
    layouts = columns.take(rows)
    ones = np.ones(len(rows), dtype=np.int64)
    return StageColumns(
        layouts=layouts,
        layout_row=rows,
        stage=np.arange(len(rows)) - np.repeat(starts, columns.pipeline_parallel),
        num_layers=ones,
        recompute_layers=np.where(layouts.recompute == 1, ones, 0),
    )


def stages_of_layout(layout: Layout) -> StageColumns:
    """The stages of one whole layout, with its own layers and recomputed layers."""
    stages = stages_of(columns_of(layout))
    return StageColumns(
        layouts=stages.layouts,
        layout_row=stages.layout_row,
        stage=stages.stage,
        num_layers=np.array(layout.layers_per_stage, dtype=np.int64),
        recompute_layers=np.array(layout.recompute_layers_per_stage, dtype=np.int64),
    )


def padded_vocab(problem: Problem, columns: LayoutColumns) -> Integers:
    """Vocabulary rows after the stack padded them to a multiple of its own times the TP degree."""
    multiple = np.maximum(problem.stack.vocab_multiple * columns.tensor_parallel, 1)
    return -(-problem.model.vocab_size // multiple) * multiple


def microbatch_tokens(problem: Problem, columns: LayoutColumns) -> Floats:
    """Tokens of one micro batch."""
    return np.multiply(columns.micro_batch, problem.seq_len, dtype=np.float64)
