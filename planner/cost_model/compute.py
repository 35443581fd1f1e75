"""Time that a stage computes for one micro batch, and the optimizer step."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.flops import head_product, layer_products
from planner.cost_model.host import nvme_bytes_per_rank
from planner.cost_model.parameters import SHARDS_GRADIENTS, stage_parameters, updated_parameters
from planner.cost_model.products import alignment_share, matrix_seconds, product_seconds
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.problem import Problem
from planner.rules.rule import edge_of
from planner.rules.states import SHARDS_WEIGHTS
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, StageColumns, padded_vocab

BACKWARD_PRODUCTS = 2.0
"""Backward computes a weight and an input gradient for every product of forward."""
CAUSAL_SHARE = 0.5
"""Share of the attention scores that a causal flash kernel computes."""
LAYER_TENSORS = 12
"""Parameter tensors of a layer: weights and biases of four products and two norms."""
WEIGHT_PRODUCTS = 4
SUMMA_KERNELS = 4
"""Kernels of one step of a product in a 2D or 2.5D grid: two broadcasts, the product and its addition."""


@formula("definition")
def traffic_seconds(problem: Problem, num_bytes: Floats) -> Floats:
    """Time of memory-bound work: bytes over the share of the memory bandwidth that it reaches."""
    hardware = problem.hardware
    return num_bytes / (hardware.memory_bandwidth_bytes_per_s * hardware.efficiency.memory)


class WeightProducts(NamedTuple):
    """Time of one layer's products with its weights, for one micro batch. Units: s."""

    forward: Floats
    backward: Floats


@formula("narayanan2021", "xu2021", "wang2021")
def weight_product_seconds(problem: Problem, stages: StageColumns) -> WeightProducts:
    """The four products of one layer with its weights for one micro batch, and the two each has in backward.

    Each takes what its shape takes, or its operands and result over the memory where that is longer. In a
    2D or 2.5D grid it runs in as many steps as the edge. Units: s.
    """
    model, part, steps = problem.model, shares(stages.layouts), summa_steps(stages)
    h, f, products = float(model.hidden_size), float(model.ffn_hidden_size), layer_products(problem, stages)
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    whole, split = np.where(in_grid, part.split_hidden, 1.0), part.split_hidden
    tokens, element = rank_tokens(problem, stages), float(ELEMENT_BYTES[problem.precision])
    shapes = {
        "qkv": (h * whole, 3 * h * split), "attention_output": (h * split, h * whole),
        "ffn_in": (h * whole, f * split), "ffn_out": (f * split, h * whole),
    }  # fmt: skip
    forward = backward = np.zeros(len(stages))
    for name, (inner, outer) in shapes.items():
        share = alignment_share(problem, inner) * alignment_share(problem, outer)
        rows = getattr(products, name) / (2.0 * inner * outer * steps)
        moved = traffic_seconds(problem, element * (tokens * inner + inner * outer + tokens * outer))
        output, input_gradient, weight_gradient = (
            steps * np.maximum(matrix_seconds(problem, *sides) / share, moved)
            for sides in ((rows, outer, inner), (rows, inner, outer), (inner, outer, rows))
        )
        forward, backward = forward + output, backward + input_gradient + weight_gradient
    return WeightProducts(forward, backward)


@formula("narayanan2021", "dao2022")
def layer_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward of one layer for one micro batch on the device: products, attention, element-wise traffic."""
    part, element = shares(stages.layouts), float(ELEMENT_BYTES[problem.precision])
    traffic = problem.stack.traffic
    elements = traffic.replicated_elements * part.whole_hidden + traffic.sharded_elements * part.split_hidden
    moved = rank_tokens(problem, stages) * problem.model.hidden_size * element * elements
    products = weight_product_seconds(problem, stages).forward + attention_seconds(problem, stages)
    return products + traffic_seconds(problem, moved) + float(traffic.layer_fixed_s)


@formula("narayanan2021", "dao2022")
def layer_backward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Backward of one layer for one micro batch on the device, without what it recomputes.

    Products with weights by their shapes, everything else twice what forward takes.
    """
    products = weight_product_seconds(problem, stages)
    return BACKWARD_PRODUCTS * (layer_forward_seconds(problem, stages) - products.forward) + products.backward


@formula("definition")
def layer_host_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Host time of one layer's forward: launches of its kernels, or what the stack takes if that is longer."""
    traffic = problem.stack.traffic
    stated = traffic.layer_host_s + np.where(stages.layouts.tensor_parallel > 1, traffic.tensor_parallel_host_s, 0.0)
    stated = stated + np.where(stages.layouts.sequence_parallel == 1, traffic.sequence_parallel_host_s, 0.0)
    in_pieces = stages.layouts.zero_stage >= SHARDS_WEIGHTS
    stated = stated + np.where(in_pieces, problem.stack.sharded.layer_host_s, 0.0)
    return np.maximum(layer_kernels(problem, stages) * problem.hardware.kernel_launch_s, stated)


@formula("dao2022", "korthikanti2022")
def attention_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The two attention products of one layer's forward, and the scores' way through memory.

    A flash kernel computes half of the scores, the others all; kernels that store scores move each as
    often as the stack counts. Units: s.
    """
    stack, products = problem.stack, layer_products(problem, stages)
    kind = stack.activations.attention
    computed = CAUSAL_SHARE if kind == "flash" else 1.0
    flops = (products.attention_scores * computed, products.attention_values * computed)
    stores_scores, share = kind in ("materialised", "recomputed"), stack.traffic.attention_efficiency
    if share is not None and not stores_scores:
        rate = problem.hardware.peak_flops_per_s[problem.precision] * share * problem.hardware.efficiency.attention
        return (flops[0] + flops[1]) / rate
    if not stores_scores:
        return product_seconds(problem, flops[0]) + product_seconds(problem, flops[1])
    side, depth = float(problem.seq_len), float(problem.model.hidden_size // problem.model.num_heads)
    heads = rank_tokens(problem, stages) / side * problem.model.num_heads * shares(stages.layouts).split_hidden
    seconds = matrix_seconds(problem, side, side, depth, heads) + matrix_seconds(problem, side, depth, side, heads)
    scores = heads * side * side * ELEMENT_BYTES[problem.precision]
    return seconds + traffic_seconds(problem, scores * stack.traffic.score_elements)


@formula("xu2021", "wang2021")
def summa_steps(stages: StageColumns) -> Floats:
    """Steps in which a product runs: the edge of a 2D or 2.5D grid, 1 in every other mode."""
    flat = stages.layouts.mode_is("2d", "2.5d")
    if not flat.any():
        return np.ones(len(stages))
    return np.where(flat, edge_of(stages.layouts), 1).astype(np.float64)


@formula("definition")
def layer_kernels(problem: Problem, stages: StageColumns) -> Floats:
    """Kernels of one layer's forward: the stack's count, and those of the steps of its products in a grid."""
    steps = summa_steps(stages)
    return problem.stack.traffic.kernels + WEIGHT_PRODUCTS * np.where(steps > 1, SUMMA_KERNELS * steps - 1.0, 0.0)


@formula("narayanan2021")
def head_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward product of the loss head for one micro batch, on the last stage."""
    columns, steps, part = stages.layouts, summa_steps(stages), shares(stages.layouts).split_hidden
    inner = problem.model.hidden_size * np.where(columns.mode_is("2d", "2.5d", "3d"), part, 1.0)
    outer = padded_vocab(problem, columns) * part
    rows = head_product(problem, stages) / (2.0 * inner * outer * steps)
    seconds = steps * matrix_seconds(problem, rows, outer, inner)
    kept = np.where(columns.tensor_parallel == 1, problem.stack.traffic.whole_head, 1.0)
    return np.where(stages.is_last, seconds / kept, 0.0)


@formula("definition")
def loss_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Passes of the loss over the logits, forward and backward, on the last stage."""
    columns, stack = stages.layouts, problem.stack
    logits = rank_tokens(problem, stages) * padded_vocab(problem, columns) * shares(columns).split_hidden
    element = float(ELEMENT_BYTES[problem.precision])
    passes = traffic_seconds(problem, logits * stack.traffic.loss_passes * element)
    return np.where(stages.is_last, passes, 0.0)


@formula("definition")
def embedding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Look-up of tokens and positions and the scatter of their gradients, on the first stage.

    Forward reads two rows and writes one; backward reads one and adds to two: 8 hidden states.
    """
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    part = np.where(in_grid, shares(stages.layouts).whole_hidden, 1.0)
    hidden = rank_tokens(problem, stages) * float(problem.model.hidden_size) * part
    moved = traffic_seconds(problem, 8.0 * hidden * ELEMENT_BYTES[problem.precision])
    return np.where(stages.is_first, moved, 0.0)


@formula("narayanan2021", "korthikanti2022")
def microbatch_compute(problem: Problem, stages: StageColumns) -> Terms:
    """Compute time of one micro batch on each stage, forward and backward, by part. Units: s.

    Where the stack recomputes attention alone, backward of every layer that does not recompute as a
    whole computes it again.
    """
    forward = layer_forward_seconds(problem, stages)
    head = head_forward_seconds(problem, stages)
    selective = problem.stack.activations.attention == "recomputed"
    again = attention_seconds(problem, stages) * (stages.num_layers - stages.recompute_layers) * selective
    return {
        "layers_forward": stages.num_layers * forward,
        "layers_backward": stages.num_layers * layer_backward_seconds(problem, stages) + again,
        "recompute": stages.recompute_layers * forward,
        "embedding": embedding_seconds(problem, stages),
        "loss_head": (1.0 + BACKWARD_PRODUCTS) * head + loss_seconds(problem, stages),
    }


@formula("rajbhandari2020", "definition")
def accumulation_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Adding the gradients of one micro batch to those of the ones before, where there are several.

    From ZeRO 2 on a rank adds up its own share alone. Units: s.
    """
    columns = stages.layouts
    shards = np.where(columns.zero_stage >= SHARDS_GRADIENTS, columns.data_parallel, 1)
    added = np.where(columns.num_microbatches > 1, total(stage_parameters(problem, stages)) / shards, 0.0)
    return traffic_seconds(problem, added * problem.stack.traffic.gradient_bytes)


@formula("rajbhandari2020", "definition")
def optimizer_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The optimizer step on the device: bytes it moves per updated parameter of the local shard.

    Also the host's work for each tensor of the stage: under ZeRO 1 and 2 over several ranks, and in fp16
    the check for an overflow.
    """
    columns, traffic = stages.layouts, problem.stack.traffic
    on_device = updated_parameters(problem, stages) * (1.0 - columns.offload_optimizer)
    zero = (columns.zero_stage >= 1) & (columns.zero_stage < SHARDS_WEIGHTS) & (columns.data_parallel > 1)
    tensors = LAYER_TENSORS * stages.num_layers + 2.0 * stages.is_first + 2.0 * stages.is_last
    checked = traffic.overflow_tensor_host_s if problem.precision == "fp16" else 0.0
    host = tensors * (np.where(zero, traffic.zero_tensor_host_s, 0.0) + checked)
    return traffic_seconds(problem, on_device * traffic.optimizer_bytes) + host


@formula("colossalai0.5.0")
def offload_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The optimizer step of the offloaded share, which nothing overlaps.

    Per parameter of the shard: a 4-byte gradient to the host and 4 bytes of master weight back, as
    fast as the device's own host link and the stack's way of copying allow, and the update's traffic
    over the host memory that all ranks of the node share. Under ZeRO 3 the copies are
    :func:`sharded_copy_seconds`. Units: s.
    """
    columns, stack, host = stages.layouts, problem.stack, problem.hardware.host
    in_pieces = columns.zero_stage >= SHARDS_WEIGHTS
    offloaded = updated_parameters(problem, stages) * columns.offload_optimizer
    copy_bytes_per_s = min(host.device_bandwidth_bytes_per_s, stack.offload_copy_bytes_per_s)
    copies = np.where(in_pieces, sharded_copy_seconds(problem, stages), offloaded * 8.0 / copy_bytes_per_s)
    of_pieces = stack.traffic.host_optimizer_bytes or stack.traffic.optimizer_bytes
    moved = offloaded * np.where(in_pieces, of_pieces, stack.traffic.optimizer_bytes)
    share = host.memory_bandwidth_bytes_per_s / min(problem.devices_per_node, problem.num_devices)
    update = moved / min(share, stack.traffic.host_bytes_per_s)
    return copies + update + nvme_seconds(problem, stages)


@formula("colossalai0.5.0")
def sharded_copy_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Copies between device and host under ZeRO 3 in one step, one way each, none hidden.

    Per offloaded parameter of the optimizer: master weights to the device once, gradients to the host
    with every micro batch and back to add up. Per offloaded parameter of the weights: once to the host
    after the first use, and to the device for every later forward and backward. Units: s.
    """
    columns, host, sharded = stages.layouts, problem.hardware.host, problem.stack.sharded
    per_parameter = problem.stack.state_bytes(problem.precision)
    uses = 2.0 * columns.num_microbatches - 1.0
    optimizer = columns.offload_optimizer * (per_parameter.master + per_parameter.gradient * uses)
    weights = columns.offload_parameters * per_parameter.weight * (1.0 + uses)
    moved = updated_parameters(problem, stages) * (optimizer + weights)
    seconds = moved / min(host.device_bandwidth_bytes_per_s, sharded.copy_bytes_per_s)
    return np.where(columns.zero_stage >= SHARDS_WEIGHTS, seconds, 0.0)


@formula("colossalai0.5.0")
def nvme_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Reading and writing the moments on NVMe, which all ranks of a node share, once a step. Units: s."""
    host = problem.hardware.host
    on_node = nvme_bytes_per_rank(problem, stages) * min(problem.devices_per_node, problem.num_devices)
    return on_node / host.nvme_read_bytes_per_s + on_node / host.nvme_write_bytes_per_s
