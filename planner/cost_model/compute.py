"""Time that a stage computes for one micro batch, and the optimizer step."""

import numpy as np

from planner.cost_model.flops import head_product, layer_products
from planner.cost_model.parameters import updated_parameters
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms
from planner.problem import Problem
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, StageColumns, microbatch_tokens, padded_vocab

BACKWARD_PRODUCTS = 2.0
"""Backward computes a weight and an input gradient for every product of forward."""
CAUSAL_SHARE = 0.5
"""Share of the attention scores that a causal flash kernel computes."""


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


@formula("narayanan2021", "dao2022")
def layer_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward of one layer for one micro batch: products, then element-wise traffic.

    Never less than the time the host takes to issue the layer's kernels. Units: s.
    """
    products, columns, stack = layer_products(problem, stages), stages.layouts, problem.stack
    flash = stack.activations.attention == "flash"
    shares = [CAUSAL_SHARE if flash and name.startswith("attention_s") else 1.0 for name in products._fields]
    if flash:
        shares[products._fields.index("attention_values")] = CAUSAL_SHARE
    times = [product_seconds(problem, flops * share) for flops, share in zip(products, shares, strict=True)]
    replicas = np.where(columns.sequence_parallel == 1, columns.tensor_parallel, 1)
    elements: Floats = (
        stack.traffic.replicated_elements / replicas + stack.traffic.sharded_elements / columns.tensor_parallel
    )
    element_bytes = float(problem.model.hidden_size * ELEMENT_BYTES[problem.precision])
    moved = traffic_seconds(problem, microbatch_tokens(problem, columns) * element_bytes * elements)
    launch = stack.traffic.kernels * problem.hardware.kernel_launch_s
    return np.maximum(np.sum(times, axis=0) + moved, launch)


@formula("narayanan2021")
def head_forward_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Forward product of the loss head for one micro batch, on the last stage."""
    return product_seconds(problem, head_product(problem, stages))


@formula("definition")
def loss_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Passes of the loss over the logits, forward and backward, on the last stage."""
    columns, stack = stages.layouts, problem.stack
    logits = microbatch_tokens(problem, columns) * padded_vocab(problem, columns) / columns.tensor_parallel
    element = float(ELEMENT_BYTES[problem.precision])
    passes = traffic_seconds(problem, logits * stack.traffic.loss_passes * element)
    return np.where(stages.is_last, passes, 0.0)


@formula("definition")
def embedding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Look-up of tokens and positions and the scatter of their gradients, on the first stage.

    Forward reads two rows and writes one; backward reads one and adds to two: 8 hidden states.
    """
    hidden = microbatch_tokens(problem, stages.layouts) * float(problem.model.hidden_size)
    moved = traffic_seconds(problem, 8.0 * hidden * ELEMENT_BYTES[problem.precision])
    return np.where(stages.is_first, moved, 0.0)


@formula("narayanan2021", "korthikanti2022")
def microbatch_compute(problem: Problem, stages: StageColumns) -> Terms:
    """Compute time of one micro batch on each stage, forward and backward, by part. Units: s."""
    forward = layer_forward_seconds(problem, stages)
    head = head_forward_seconds(problem, stages)
    return {
        "layers_forward": stages.num_layers * forward,
        "layers_backward": BACKWARD_PRODUCTS * stages.num_layers * forward,
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
    over the host memory that all ranks of the node share. Units: s.
    """
    host = problem.hardware.host
    copy_bytes_per_s = min(host.device_bandwidth_bytes_per_s, problem.stack.offload_copy_bytes_per_s)
    offloaded = updated_parameters(problem, stages) * stages.layouts.offload_optimizer
    ranks = min(problem.devices_per_node, problem.num_devices)
    copies = offloaded * 8.0 / copy_bytes_per_s
    update = offloaded * problem.stack.traffic.optimizer_bytes * ranks / host.memory_bandwidth_bytes_per_s
    return copies + update
