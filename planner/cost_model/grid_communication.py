"""Time of communication inside the tensor-parallel grids of 2D, 2.5D and 3D.

Ranks of a grid are numbered along its columns first: in 2D and 2.5D the column group has stride 1, the
row group stride ``e`` and the depth group stride ``e^2``; in 3D the weight, input and output groups have
strides 1, ``c`` and ``c^2``.
"""

import numpy as np

from planner.cost_model.communication import LayerCollectives
from planner.cost_model.parameters import layer_parameters, stage_parameters
from planner.cost_model.rings import ring_links, ring_seconds
from planner.cost_model.shares import rank_tokens
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.degrees import edge_of
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns, padded_vocab
from planner.specs import ELEMENT_BYTES

NORM_SUMS = 2
"""Numbers of 4 bytes per token that a norm exchanges: sum and sum of squares."""


def _axis(problem: Problem, stages: StageColumns, power: int, num_bytes: Floats, steps: float) -> Floats:
    """A ring collective of ``num_bytes`` over the grid axis of stride ``e^power``."""
    edge = edge_of(stages.layouts)
    bandwidth, latency = ring_links(problem, edge**power, edge)
    return ring_seconds(num_bytes, edge, steps, bandwidth, latency)


@formula("xu2021", "wang2021", "colossalai0.5.0")
def broadcast_seconds(problem: Problem, stages: StageColumns, power: int, num_bytes: Floats) -> Floats:
    """Each member of a grid axis broadcasts or receives the sum of ``num_bytes`` of the whole axis in turn.

    A ring passes every message on whole, so ``e`` of them take ``bytes / bandwidth`` together and each
    the latency of ``e - 1`` hops. Nothing for an edge of 1. Units: s.
    """
    edge = edge_of(stages.layouts)
    bandwidth, latency = ring_links(problem, edge**power, edge)
    return np.where(edge > 1, num_bytes / bandwidth + edge * (edge - 1) * latency, 0.0)


@formula("xu2021", "wang2021", "colossalai0.5.0")
def summa_seconds(problem: Problem, stages: StageColumns, inputs: Floats, matrix: Floats, products: float) -> Floats:
    """Forward communication of SUMMA products over their grid: inputs along columns, matrices along rows.

    ``inputs``: elements per token of all inputs together, whole; ``matrix``: elements of all matrices,
    whole; ``products``: how many. Steps after the first hide behind products as far as the stack hides
    tensor-parallel communication. Units: s.
    """
    edge, element = edge_of(stages.layouts).astype(np.float64), ELEMENT_BYTES[problem.precision]
    along_columns = broadcast_seconds(problem, stages, 0, rank_tokens(problem, stages) * inputs * element / products)
    along_rows = broadcast_seconds(problem, stages, 1, matrix / edge * element / products)
    exposed = 1.0 - problem.stack.overlap.tensor_parallel * (edge - 1) / edge
    return products * (along_columns + along_rows) * exposed


@formula("bian2021", "colossalai0.5.0")
def cube_seconds(
    problem: Problem, stages: StageColumns, by_input: Floats | float, by_output: Floats | float, matrix: Floats | float
) -> Floats:
    """Forward communication of 3D products: gathers and scatters along each of the three axes.

    ``by_input``, ``by_output``: elements per token that cross those axes, as gathered; ``matrix``:
    elements of the matrices, whole, gathered along the weight axis. Units: s.
    """
    edge, element = edge_of(stages.layouts).astype(np.float64), ELEMENT_BYTES[problem.precision]
    tokens = rank_tokens(problem, stages) * element
    return (
        _axis(problem, stages, 1, tokens * by_input, 1.0)
        + _axis(problem, stages, 2, tokens * by_output, 1.0)
        + _axis(problem, stages, 0, matrix / edge**2 * element, 1.0)
    )


@formula("xu2021", "wang2021", "bian2021", "colossalai0.5.0")
def grid_layer_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward communication of one layer for one micro batch in a grid; backward takes twice that in 2D and 2.5D.

    2D, 2.5D: the four products' inputs, ``3 h + f`` a token, and matrices. 3D: ``4 h`` a token along the
    input axis, ``4 h + 2 f`` along the output axis, since every second product swaps them. Two norms
    gather two 4-byte sums a token. Units: s.
    """
    model, columns = problem.model, stages.layouts
    h, f = model.hidden_size, model.ffn_hidden_size
    matrices = np.full(len(stages), float(layer_parameters(model).matrices))
    flat = summa_seconds(problem, stages, np.full(len(stages), 3.0 * h + f), matrices, 4.0)
    cube = cube_seconds(problem, stages, 4.0 * h, 4.0 * h + 2.0 * f, matrices)
    return np.where(columns.mode_is("3d"), cube, flat) + norm_seconds(problem, stages)


@formula("colossalai0.5.0")
def norm_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Sums of a layer's two norms, gathered along the axis that divides hidden states, for one micro batch."""
    sums = rank_tokens(problem, stages) * NORM_SUMS * 4.0 * edge_of(stages.layouts)
    along_columns, along_output = (_axis(problem, stages, power, sums, 1.0) for power in (0, 2))
    return 2.0 * np.where(stages.layouts.mode_is("3d"), along_output, along_columns)


@formula("xu2021", "wang2021", "bian2021", "colossalai0.5.0")
def grid_ends_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Communication of embedding, head and loss for one micro batch, forward and backward, in a grid. Units: s.

    The embedding scatters hidden states along the batch axis and gathers their gradients; 3D gathers the
    table too. The head is a product with the vocabulary as output, three passes in 2D and 2.5D, two in 3D.
    The loss reduces three 4-byte numbers a token.
    """
    model, columns = problem.model, stages.layouts
    edge, cube = edge_of(columns).astype(np.float64), columns.mode_is("3d")
    tokens, element = rank_tokens(problem, stages), ELEMENT_BYTES[problem.precision]
    vocab = padded_vocab(problem, columns).astype(np.float64)
    states = tokens * model.hidden_size * element
    table = _axis(problem, stages, 0, vocab * model.hidden_size / edge**2 * element, 1.0)
    embedding = 2.0 * (_axis(problem, stages, 1, states, 1.0) + np.where(cube, table, 0.0))
    flat = 3.0 * summa_seconds(problem, stages, vocab, vocab * model.hidden_size, 1.0)
    solid = 2.0 * cube_seconds(problem, stages, float(model.hidden_size), vocab, vocab * model.hidden_size)
    numbers = tokens * 3.0 * 4.0
    loss = np.where(cube, _axis(problem, stages, 1, numbers, 2.0), _axis(problem, stages, 0, numbers, 2.0))
    head = np.where(cube, solid, flat) + loss
    return np.where(stages.is_first, embedding, 0.0) + np.where(stages.is_last, head, 0.0)


@formula("wang2021", "colossalai0.5.0")
def grid_gradient_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """All-reduce of a stage's gradients in a grid, once a step.

    Matrices over the data-parallel ranks, in 2.5D with the copies along the depth as well; vectors over
    all ranks that hold the same: ``t / e`` in the grid times the data-parallel ones. Units: s.
    """
    columns, model, part = stages.layouts, problem.model, layer_parameters(problem.model)
    depth = np.where(columns.mode_is("2.5d"), columns.tensor_depth, 1)
    edge, element = edge_of(columns), ELEMENT_BYTES[problem.precision]
    numbers = stages.num_layers * float(part.column_vectors + part.row_vectors)
    numbers = numbers + np.where(stages.is_first, float(model.max_seq_len * model.hidden_size), 0.0)
    vectors = (numbers + np.where(stages.is_last, 2.0 * model.hidden_size, 0.0)) / edge * element
    everything = total(stage_parameters(problem, stages)) * element
    matrices = _copies_seconds(problem, stages, everything - vectors, edge**2, depth)
    copies = columns.tensor_parallel // edge
    return matrices + _copies_seconds(problem, stages, vectors, np.ones_like(edge), copies)


def _copies_seconds(
    problem: Problem, stages: StageColumns, num_bytes: Floats, stride: Integers, copies: Integers
) -> Floats:
    """An all-reduce over ``copies`` ranks of the grid times the data-parallel ones, on the slower of their links."""
    columns = stages.layouts
    within, within_latency = ring_links(problem, stride, copies)
    across, across_latency = ring_links(
        problem, columns.tensor_parallel * columns.pipeline_parallel, columns.data_parallel
    )
    bandwidth, latency = np.minimum(within, across), np.maximum(within_latency, across_latency)
    return ring_seconds(num_bytes, copies * columns.data_parallel, 2.0, bandwidth, latency)


@formula("xu2021", "wang2021", "bian2021")
def grid_collectives(problem: Problem, stages: StageColumns) -> LayerCollectives:
    """Communication of one layer and micro batch inside a grid; zero in other modes. Units: s.

    Backward communicates twice as much as forward in 2D and 2.5D, and as much in 3D, of which the
    scatters of input and weight gradients hide as far as the stack's overlap goes.
    """
    columns, exposed = stages.layouts, 1.0 - problem.stack.overlap.tensor_parallel / 2.0
    in_grid = columns.mode_is("2d", "2.5d", "3d")
    if not in_grid.any():
        return LayerCollectives(np.zeros(len(stages)), np.zeros(len(stages)))
    forward = np.where(in_grid, grid_layer_seconds(problem, stages), 0.0)
    return LayerCollectives(forward * (1.0 + np.where(columns.mode_is("3d"), exposed, 2.0)), forward)


@formula("xu2021", "wang2021", "bian2021")
def grid_seconds(problem: Problem, stages: StageColumns) -> Terms:
    """Communication of one micro batch inside a 2D, 2.5D or 3D grid, by part; zero in other modes. Units: s."""
    layer, in_grid = grid_collectives(problem, stages), stages.layouts.mode_is("2d", "2.5d", "3d")
    if not in_grid.any():
        return {"layers": layer.once, "embedding_and_loss": np.zeros(len(stages))}
    return {
        "layers": stages.num_layers * layer.once + stages.recompute_layers * layer.recomputed,
        "embedding_and_loss": np.where(in_grid, grid_ends_seconds(problem, stages), 0.0),
    }
