"""Time that a stage computes for one micro batch, and the optimizer step."""

from collections.abc import Iterable

import numpy as np

from planner.cost_model.attention_time import attention_seconds
from planner.cost_model.checks import layer_check_seconds
from planner.cost_model.compiled import with_compiled_counts
from planner.cost_model.expert_time import dispatch_seconds, expert_kernels, expert_products
from planner.cost_model.flops import head_product, layer_products
from planner.cost_model.host_speed import host_slowness
from planner.cost_model.parts import block, counted_whole, final_norm, moved_elements, remade_elements
from planner.cost_model.parts.part import Divided
from planner.cost_model.products import (
    BACKWARD_PRODUCTS,
    DROOP_DECADES,
    Passes,
    Products,
    Side,
    alignment_share,
    matrix_seconds,
    odd_share,
    traffic_seconds,
    with_gradients,
)
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms
from planner.layouts.degrees import edge_of
from planner.layouts.layout import SHARDS_GRADIENTS, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, once_per_places, once_per_stages, padded_vocab
from planner.specs import ELEMENT_BYTES

SUMMA_KERNELS = 4
"""Kernels of one step of a product in a 2D or 2.5D grid: two broadcasts, the product and its addition."""


@formula("narayanan2021", "xu2021", "wang2021")
@once_per_places
def weight_products(problem: Problem, stages: StageColumns) -> dict[str, Products]:
    """The products of one layer with its weights for one micro batch, and the two each has in backward.

    Each takes what its shape takes, or its operands and result over the memory where that is longer. In a
    2D or 2.5D grid it runs in as many steps as the edge. Units: s.
    """
    part, steps, flops = shares(stages.layouts), summa_steps(stages), layer_products(problem, stages).weights
    reached = problem.stack.traffic.product_share
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    whole, split = np.where(in_grid, part.split_hidden, 1.0), part.split_hidden
    tokens, element = rank_tokens(problem, stages), float(ELEMENT_BYTES[problem.precision])
    seconds = {}
    for product in block(problem).products:
        parts = {"outer": (whole, split), "inner": (split, whole), "neither": (whole, whole)}[product.divided]
        inner, outer = (float(side) * share for side, share in zip((product.inner, product.outer), parts, strict=True))
        share = alignment_share(problem, inner) * alignment_share(problem, outer) * reached
        rows = flops[product.name] / (2.0 * inner * outer * steps)
        moved = traffic_seconds(problem, element * (tokens * inner + inner * outer + tokens * outer))

        def one(*sides: Side, share: Floats = share, moved: Floats = moved) -> Floats:
            return np.asarray(steps * np.maximum(matrix_seconds(problem, *sides) / share, moved))

        seconds[product.name] = with_gradients(one, rows, inner, outer)
    return seconds


@formula("definition")
def weight_product_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """All of :func:`weight_products` together. Units: s."""
    return _sum(product.passes for product in weight_products(problem, stages).values())


@formula("qi2023")
@once_per_places
def weight_gradient_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Of backward of one layer, what a schedule can put off: the gradients of the weights of its products. Units: s."""
    alone = np.sum([product.of_weight for product in weight_products(problem, stages).values()], axis=0, dtype=float)
    return np.asarray(alone * product_slowdown(problem, stages))


@formula("definition")
@once_per_places
def element_wise_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """Traffic of one layer's element-wise kernels for one micro batch: norms, GELU, dropout, additions.

    On top of the stack's count: dropout where the model has it; with tensor parallelism the biases of
    forward, ``2 h`` outputs that are whole and ``3 h + f`` that are divided; what a grid needs. What backward makes
    again in kernels that have its operands is written once more. Units: s.
    """
    part, traffic, model = shares(stages.layouts), problem.stack.traffic, problem.model
    moved, moved_back = moved_elements(problem)
    dropped = traffic.dropout_elements * (model.dropout > 0)
    whole, split = part.whole_hidden, part.split_hidden
    outputs = _bias_outputs(problem, "inner") * whole + _bias_outputs(problem, "outer") * split
    biases = np.where(stages.layouts.tensor_parallel > 1, traffic.bias_passes * outputs, 0.0)
    in_grid = np.where(stages.layouts.mode_is("2d", "2.5d", "3d"), traffic.grid_elements * split, 0.0)
    forward = (moved.whole + dropped) * whole + moved.split * split + biases + in_grid
    backward = (moved_back.whole + dropped) * whole + moved_back.split * split + BACKWARD_PRODUCTS * in_grid
    backward = backward + stages.layouts.recompute_pointwise * sum(remade_elements(problem))
    hidden = rank_tokens(problem, stages) * model.hidden_size * float(ELEMENT_BYTES[problem.precision])
    return Passes(traffic_seconds(problem, hidden * forward), traffic_seconds(problem, hidden * backward))


def _bias_outputs(problem: Problem, side: Divided) -> float:
    """Outputs with a bias of the products of which that side is divided, in hidden states."""
    whole = [p.outer / problem.model.hidden_size for p in block(problem).products if p.bias and p.divided == side]
    return sum(whole)


@formula("narayanan2021", "dao2022")
@once_per_places
@with_compiled_counts
def layer_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """One layer for one micro batch on the device: products, attention, element-wise traffic, experts. Units: s."""
    attention, element_wise = attention_seconds(problem, stages), element_wise_seconds(problem, stages)
    slower = product_slowdown(problem, stages)
    parts = [_slowed(weight_product_seconds(problem, stages), slower), attention, element_wise]
    if problem.model.experts is not None:
        routed = _slowed(expert_products(problem, stages), slower)
        parts.append(_sum([routed, dispatch_seconds(problem, stages)]))
    moved, fixed = _sum(parts), float(problem.stack.traffic.layer_fixed_s)
    return Passes(moved.forward + fixed, moved.backward + BACKWARD_PRODUCTS * fixed)


def _sum(parts: Iterable[Passes]) -> Passes:
    forward, backward = (np.sum(passes, axis=0, dtype=np.float64) for passes in zip(*parts, strict=True))
    return Passes(np.asarray(forward), np.asarray(backward))


@formula("definition")
@once_per_places
@with_compiled_counts
def product_slowdown(problem: Problem, stages: StageColumns) -> Floats:
    """How many times as long products take at the clock of a training step as at the card's full clock.

    Power limits lower the clock by what the device does over many milliseconds, not by the size of one product. Long
    products one after the other take ``1 + 2 droop`` times as long (:func:`planner.cost_model.products.alone_seconds`),
    and in a step the part of it that products are of what a layer takes on the device.
    """
    tiles = problem.hardware.efficiency.tiles
    if tiles is None or tiles.droop == 0:
        return np.ones(len(stages))
    products = [weight_product_seconds(problem, stages)]
    others = [attention_seconds(problem, stages), element_wise_seconds(problem, stages)]
    if problem.model.experts is not None:
        products.append(expert_products(problem, stages))
        others.append(dispatch_seconds(problem, stages))
    fixed = (1.0 + BACKWARD_PRODUCTS) * float(problem.stack.traffic.layer_fixed_s)
    taken, other = (np.sum(_sum(parts), axis=0) for parts in (products, others))
    busy = np.divide(taken, taken + other + fixed, out=np.zeros(len(stages)), where=taken > 0)
    return 1.0 + DROOP_DECADES * tiles.droop * busy


def _slowed(passes: Passes, slower: Floats) -> Passes:
    return Passes(passes.forward * slower, passes.backward * slower)


@formula("pytorch-checkpoint")
@once_per_places
def recomputed_layer_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What one layer that recomputes takes to run forward again, on the device.

    All of forward, or without its last product where the stack stops at the last tensor that backward
    needs: that is the product's input, unless dropout follows, tensor parallelism divides it or it is one of experts,
    whose weights need their outputs. A V runs all of it, as its checkpoints are reentrant. Units: s.
    """
    if problem.model.experts is not None:
        return layer_seconds(problem, stages).forward
    stops = problem.stack.traffic.recompute_stops_early and problem.model.dropout == 0
    last = weight_products(problem, stages)["ffn_out"].output * product_slowdown(problem, stages)
    early = (stages.layouts.tensor_parallel == 1) & ~stages.layouts.schedule_is("zbv")
    left_out = np.where(stops & early, last, 0.0)
    return np.asarray(layer_seconds(problem, stages).forward - left_out)


@formula("definition")
@once_per_places
@with_compiled_counts
def layer_host_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Host time of one layer's forward: launches of its kernels, or what the stack takes if that is longer.

    The stack's times are those of the host that they were measured on, and scaled to another whose speed is known;
    what ranks wait for each other is not.
    """
    traffic, parts = problem.stack.traffic, problem.stack.parts
    own = 0.0 if counted_whole(problem.model) else parts.layer_host_s
    usual: Floats | float = own or traffic.layer_host_s
    if problem.model.experts is not None:
        usual = usual + expert_kernels(problem, stages) * float(problem.stack.experts.kernel_host_s)
    stated = usual + np.where(stages.layouts.tensor_parallel > 1, traffic.tensor_parallel_host_s, 0.0)
    stated = stated + np.where(stages.layouts.sequence_parallel == 1, traffic.sequence_parallel_host_s, 0.0)
    zero, in_pieces = stages.layouts.zero_stage, stages.layouts.zero_stage >= SHARDS_WEIGHTS
    reduced = (zero >= 1) & ~in_pieces & (stages.layouts.replicas > 1)
    share = np.where(zero >= SHARDS_GRADIENTS, 1.0, 1.0 / stages.layouts.num_microbatches)
    stated = stated + np.where(reduced, traffic.zero_layer_host_s * share, 0.0)
    stated = stated + np.where(in_pieces, problem.stack.sharded.layer_host_s, 0.0)
    stated = stated * host_slowness(problem) + layer_check_seconds(problem, stages) / (1.0 + BACKWARD_PRODUCTS)
    return np.maximum(layer_kernels(problem, stages) * problem.hardware.kernel_launch_s, stated)


@formula("xu2021", "wang2021")
def summa_steps(stages: StageColumns) -> Floats:
    """Steps in which a product runs: the edge of a 2D or 2.5D grid, 1 in every other mode."""
    flat = stages.layouts.mode_is("2d", "2.5d")
    if not flat.any():
        return np.ones(len(stages))
    return np.where(flat, edge_of(stages.layouts), 1).astype(np.float64)


@formula("definition")
@once_per_places
def layer_kernels(problem: Problem, stages: StageColumns) -> Floats:
    """Kernels of one layer's forward: the stack's count, those of experts, and of the steps of products in a grid."""
    steps, own = summa_steps(stages), block(problem)
    kernels = problem.stack.traffic.kernels if counted_whole(problem.model) else own.kernels
    if problem.model.experts is not None:
        return np.asarray(kernels + expert_kernels(problem, stages))
    return kernels + len(own.products) * np.where(steps > 1, SUMMA_KERNELS * steps - 1.0, 0.0)


@formula("narayanan2021")
@once_per_places
def head_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward product of the loss head for one micro batch, on the last stage."""
    columns, steps, part = stages.layouts, summa_steps(stages), shares(stages.layouts).split_hidden
    unpadded = (columns.zero_stage >= SHARDS_WEIGHTS) & (not problem.stack.sharded.pads_vocab)
    unpadded |= (columns.tensor_parallel == 1) & (not problem.stack.pads_whole_vocab)
    vocab = np.where(unpadded, problem.model.vocab_size, padded_vocab(problem, columns))
    inner = problem.model.hidden_size * np.where(columns.mode_is("2d", "2.5d", "3d"), part, 1.0)
    outer = padded_vocab(problem, columns) * part
    rows = head_product(problem, stages) / (2.0 * inner * outer * steps)
    reached = odd_share(problem, vocab) * problem.stack.traffic.product_share
    return steps * matrix_seconds(problem, rows, outer, inner) / reached * product_slowdown(problem, stages)


@formula("definition")
@once_per_places
@with_compiled_counts
def loss_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Passes of the loss over the logits, forward and backward, on the last stage."""
    columns, stack = stages.layouts, problem.stack
    logits = rank_tokens(problem, stages) * padded_vocab(problem, columns) * shares(columns).split_hidden
    element = float(ELEMENT_BYTES[problem.precision])
    whole, split = stack.traffic.loss_passes, stack.traffic.split_loss_passes
    passes = np.where(columns.tensor_parallel > 1, whole if split is None else split, whole)
    return np.where(stages.is_last, traffic_seconds(problem, logits * passes * element), 0.0)


@formula("definition")
@once_per_places
def embedding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Look-up of tokens and positions and the scatter of their gradients, on the first stage.

    Forward reads a row and writes one; backward reads one and adds to one: 5 hidden states. A table of learned
    positions takes 3 more: it is read, and its gradient added to.
    """
    rows = 8.0 if problem.model.positions.kind == "learned" else 5.0
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    part = np.where(in_grid, shares(stages.layouts).whole_hidden, 1.0)
    hidden = rank_tokens(problem, stages) * float(problem.model.hidden_size) * part
    moved = traffic_seconds(problem, rows * hidden * ELEMENT_BYTES[problem.precision])
    return np.where(stages.is_first, moved, 0.0)


@formula("definition")
@once_per_places
def final_norm_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Traffic of the norm after the last block, forward and backward, on the last stage; none counted for GPT-2."""
    part = shares(stages.layouts).whole_hidden
    hidden = rank_tokens(problem, stages) * problem.model.hidden_size * float(ELEMENT_BYTES[problem.precision]) * part
    return np.where(stages.is_last, traffic_seconds(problem, hidden * sum(final_norm(problem)[1])), 0.0)


@formula("narayanan2021", "korthikanti2022")
@once_per_stages
def microbatch_compute(problem: Problem, stages: StageColumns) -> Terms:
    """Compute time of one micro batch on each stage, forward and backward, by part. Units: s.

    Where the stack recomputes attention alone, backward of every layer that does not recompute as a
    whole computes it again.
    """
    layer = layer_seconds(problem, stages)
    head = head_forward_seconds(problem, stages)
    selective = problem.stack.activations.attention == "recomputed"
    again = attention_seconds(problem, stages).forward * (stages.num_layers - stages.recompute_layers) * selective
    return {
        "layers_forward": stages.num_layers * layer.forward,
        "layers_backward": stages.num_layers * layer.backward + again,
        "recompute": stages.recompute_layers * recomputed_layer_seconds(problem, stages),
        "embedding": embedding_seconds(problem, stages),
        "loss_head": (1.0 + BACKWARD_PRODUCTS) * head
        + loss_seconds(problem, stages)
        + final_norm_seconds(problem, stages),
    }
