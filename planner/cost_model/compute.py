"""Time that a stage computes for one micro batch, and the optimizer step."""

import numpy as np

from planner.cost_model.flops import head_product, layer_products
from planner.cost_model.host import nvme_bytes_per_rank
from planner.cost_model.parameters import updated_parameters
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms
from planner.problem import Problem
from planner.rules.rule import edge_of
from planner.rules.states import SHARDS_WEIGHTS
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, StageColumns, padded_vocab

BACKWARD_PRODUCTS = 2.0
"""Backward computes a weight and an input gradient for every product of forward."""
CAUSAL_SHARE = 0.5
"""Share of the attention scores that a causal flash kernel computes."""
ATTENTION_PRODUCTS = ("attention_scores", "attention_values")
"""The products of a layer that have no weights."""
WEIGHT_PRODUCTS = 4
SUMMA_KERNELS = 4
"""Kernels of one step of a product in a 2D or 2.5D grid: two broadcasts, the product and its addition."""


@formula("definition")
def product_seconds(problem: Problem, flops: Floats) -> Floats:
    """Time of one matrix product: FLOP over dense peak times the efficiency measured at that size.

    The efficiency is interpolated between the points of the hardware spec over log FLOP and held
    constant beyond them. Zero FLOP take no time. Units: s.
    """
    points = np.array(problem.hardware.efficiency.matmul)
    size = np.log10(np.maximum(flops, 1.0))
    efficiency = np.interp(size, np.log10(points[:, 0]), points[:, 1])
    return flops / (problem.hardware.peak_flops_per_s[problem.precision] * efficiency)


@formula("definition")
def traffic_seconds(problem: Problem, num_bytes: Floats) -> Floats:
    """Time of memory-bound work: bytes over the share of the memory bandwidth that it reaches."""
    hardware = problem.hardware
    return num_bytes / (hardware.memory_bandwidth_bytes_per_s * hardware.efficiency.memory)


@formula("narayanan2021", "dao2022", "xu2021", "wang2021")
def layer_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward of one layer for one micro batch: products, then element-wise traffic.

    Products of a 2D or 2.5D grid run in as many steps as its edge. Never less than the time the host
    takes to issue the layer's kernels. Units: s.
    """
    products, stack, steps = layer_products(problem, stages), problem.stack, summa_steps(stages)
    seconds = attention_seconds(problem, stages)
    for name, flops in zip(products._fields, products, strict=True):
        if name not in ATTENTION_PRODUCTS:
            seconds = seconds + steps * product_seconds(problem, flops / steps)
    part, element = shares(stages.layouts), float(ELEMENT_BYTES[problem.precision])
    elements = (
        stack.traffic.replicated_elements * part.whole_hidden + stack.traffic.sharded_elements * part.split_hidden
    )
    tokens = rank_tokens(problem, stages)
    moved = tokens * problem.model.hidden_size * element * elements
    launch = layer_kernels(problem, stages) * problem.hardware.kernel_launch_s
    return np.maximum(seconds + traffic_seconds(problem, moved), launch)


@formula("dao2022", "korthikanti2022")
def attention_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The two attention products of one layer's forward, and the scores' way through memory.

    A flash kernel computes half of the scores, the others all; kernels that store scores move each as
    often as the stack counts. Units: s.
    """
    stack, products = problem.stack, layer_products(problem, stages)
    kind = stack.activations.attention
    computed = CAUSAL_SHARE if kind == "flash" else 1.0
    seconds = product_seconds(problem, products.attention_scores * computed)
    seconds = seconds + product_seconds(problem, products.attention_values * computed)
    if kind not in ("materialised", "recomputed"):
        return seconds
    part = shares(stages.layouts).split_hidden
    scores = rank_tokens(problem, stages) * problem.seq_len * problem.model.num_heads * part
    return seconds + traffic_seconds(problem, scores * ELEMENT_BYTES[problem.precision] * stack.traffic.score_elements)


@formula("xu2021", "wang2021")
def summa_steps(stages: StageColumns) -> Floats:
    """Steps in which a product runs: the edge of a 2D or 2.5D grid, 1 in every other mode."""
    flat = stages.layouts.mode_is("2d", "2.5d")
    return np.where(flat, edge_of(stages.layouts), 1).astype(np.float64)


@formula("definition")
def layer_kernels(problem: Problem, stages: StageColumns) -> Floats:
    """Kernels of one layer's forward: the stack's count, and those of the steps of its products in a grid."""
    steps = summa_steps(stages)
    return problem.stack.traffic.kernels + WEIGHT_PRODUCTS * np.where(steps > 1, SUMMA_KERNELS * steps - 1.0, 0.0)


@formula("narayanan2021")
def head_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward product of the loss head for one micro batch, on the last stage."""
    steps = summa_steps(stages)
    return steps * product_seconds(problem, head_product(problem, stages) / steps)


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
        "layers_backward": BACKWARD_PRODUCTS * stages.num_layers * forward + again,
        "recompute": stages.recompute_layers * forward,
        "embedding": embedding_seconds(problem, stages),
        "loss_head": (1.0 + BACKWARD_PRODUCTS) * head + loss_seconds(problem, stages),
    }


@formula("rajbhandari2020", "definition")
def optimizer_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The optimizer step on the device: bytes it moves per updated parameter of the local shard."""
    on_device = updated_parameters(problem, stages) * (1.0 - stages.layouts.offload_optimizer)
    return traffic_seconds(problem, on_device * problem.stack.traffic.optimizer_bytes)


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
    update = moved / min(share, host.process_bandwidth_bytes_per_s)
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
