"""What part of a tensor each rank of a tensor-parallel group holds, in every mode."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.degrees import edge_of
from planner.layouts.layout import LayoutColumns, once_per_table
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, microbatch_tokens, once_per_places


class Shares(NamedTuple):
    """Parts of tensors that one rank holds: 1 is the whole."""

    matrix: Floats
    """Of weight matrices and the token embedding."""
    column_vector: Floats
    """Of the biases of products whose output is divided in 1D."""
    row_vector: Floats
    """Of norms, the other biases and the position embedding."""
    tokens: Floats
    """Of the tokens of a micro batch."""
    whole_hidden: Floats
    """Of a hidden state that is whole in 1D: norms, residual stream, boundaries of stages."""
    split_hidden: Floats
    """Of a hidden state that is divided in 1D: attention and feed-forward."""


@formula("shoeybi2019", "xu2021", "wang2021", "bian2021", "korthikanti2022")
@once_per_table
def shares(columns: LayoutColumns) -> Shares:
    """The parts of each tensor kind under the layout's tensor mode, with ``t`` its degree and ``e`` its edge.

    1D divides matrices by ``t`` and copies norms and tokens; sequence parallelism divides the whole
    hidden states by ``t`` too. 2D (``t = e^2``), 2.5D (``t = d e^2``) and 3D (``t = e^3``) divide matrices
    by ``e^2``, ``e^2`` and ``e^3``, vectors and hidden states by ``e``, and tokens by ``e``, ``d e`` and ``e^2``.
    """
    degree = columns.tensor_parallel.astype(np.float64)
    ones, divided = np.ones(len(columns)), 1.0 / degree
    line = Shares(
        matrix=divided,
        column_vector=divided,
        row_vector=ones,
        tokens=ones,
        whole_hidden=np.where(columns.sequence_parallel == 1, divided, 1.0),
        split_hidden=divided,
    )
    in_grid = columns.mode_is("2d", "2.5d", "3d")
    if not in_grid.any():
        return line
    pairs = zip(line, _in_grid(columns), strict=True)
    return Shares(*(np.where(in_grid, grid, other) for other, grid in pairs))


def _in_grid(columns: LayoutColumns) -> Shares:
    edge, cube = edge_of(columns).astype(np.float64), columns.mode_is("3d")
    cells = np.where(cube, edge**3, edge**2)
    batch = np.where(cube, edge**2, edge * columns.tensor_depth)
    along = 1.0 / edge
    return Shares(
        matrix=1.0 / cells,
        column_vector=along,
        row_vector=along,
        tokens=1.0 / batch,
        whole_hidden=along,
        split_hidden=along,
    )


@formula("definition")
@once_per_places
def rank_tokens(problem: Problem, stages: StageColumns) -> Floats:
    """Tokens of one micro batch that a rank works on outside of attention; ranks of all-to-all divide them."""
    columns = stages.layouts
    return microbatch_tokens(problem, columns) * shares(columns).tokens / columns.sequence_parallel_degree
