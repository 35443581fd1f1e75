"""What follows computation on a device: adding up gradients, the optimizer step and its offloaded share."""

import numpy as np

from planner.cost_model.expert_shares import expert_layers, expert_mesh, routed_of
from planner.cost_model.host import nvme_bytes_per_rank
from planner.cost_model.host_speed import host_slowness
from planner.cost_model.parameters import stage_parameters, updated_parameters
from planner.cost_model.parts import block, end_tensors
from planner.cost_model.products import traffic_seconds
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.compilation import in_one_pass, shards_itself
from planner.layouts.layout import SHARDS_GRADIENTS, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns
from planner.specs import ELEMENT_BYTES

ADDED_BY_PRODUCTS = 1.0 / 3.0
"""Of reading both gradients and writing their sum, what is left where the product of one of them adds the other."""


@formula("rajbhandari2020", "definition")
def accumulation_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Adding the gradients of one micro batch to those of the ones before, where there are several.

    A stack with permanent buffers of gradients adds to them those of a single micro batch as well. From ZeRO 2 on a
    rank adds up its own share alone. Products that a schedule has put off add to the gradients of layers themselves
    (runtime/patches/weight_gradients.py), which takes one pass more over them and not three. Units: s.
    """
    columns, parameters = stages.layouts, stage_parameters(problem, stages)
    shards = np.where(columns.zero_stage >= SHARDS_GRADIENTS, columns.replicas, 1)
    adds = (columns.num_microbatches > 1) | (problem.stack.state_bytes(problem.precision).gradient_buffer > 0)
    added = np.where(adds, (total(parameters) - of_products(problem, stages)) / shards, 0.0)
    others = traffic_seconds(problem, added * problem.stack.traffic.gradient_bytes)
    return others + put_off_addition_seconds(problem, stages)


@formula("colossalai0.5.0", "definition")
def put_off_addition_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Of :func:`accumulation_seconds`, what products take that a schedule has put off. Units: s."""
    added = np.where(stages.layouts.num_microbatches > 1, of_products(problem, stages) * ADDED_BY_PRODUCTS, 0.0)
    return traffic_seconds(problem, added * problem.stack.traffic.gradient_bytes)


def of_products(problem: Problem, stages: StageColumns) -> Floats:
    """Parameters whose gradients are made by products that a schedule puts off: those of layers in a V."""
    held = stage_parameters(problem, stages)
    layers = held["layers"] + held["experts"] if "experts" in held else held["layers"]
    return np.where(stages.layouts.schedule_is("zbv"), layers, 0.0)


@formula("definition")
def gather_copy_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Copies of one micro batch's weights out of what was gathered, and of its gradients into what is scattered.

    Under ZeRO 3, where the library has them, as many bytes for each parameter of a stage; none on one rank. Units: s.
    """
    columns = stages.layouts
    copied = (columns.zero_stage >= SHARDS_WEIGHTS) & (columns.replicas > 1)
    parameters = np.where(copied, total(stage_parameters(problem, stages)), 0.0)
    return traffic_seconds(problem, parameters * problem.stack.sharded.copied_bytes)


@formula("rajbhandari2020", "definition")
def optimizer_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The optimizer step on the device: bytes it moves per updated parameter of the local shard.

    Under ZeRO 1 and 2 over several ranks also those of the whole stage's gradients on their way through
    buckets. And the host's work for each tensor of the stage: without ZeRO what the device does not hide,
    under ZeRO 1 and 2 all of it, as the host waits for results, and a launch for each slice that arrives where the
    stack copies them by themselves; in fp16 the check for an overflow. Compiled blocks come with an
    update in one pass, which moves less and is one kernel. Under ZeRO their gradients go through no buckets, the
    host's work is that without ZeRO, and in fp16 one more pass over gradients looks for an overflow.
    """
    columns, traffic = stages.layouts, problem.stack.traffic
    on_device = updated_parameters(problem, stages) * (1.0 - columns.offload_optimizer)
    zero = (columns.zero_stage >= 1) & (columns.zero_stage < SHARDS_WEIGHTS) & (columns.replicas > 1)
    sharded = shards_itself(problem, columns)
    zero, plain = zero & ~sharded, (columns.zero_stage == 0) | (columns.replicas == 1) | sharded
    tensors, looks = stage_tensors(problem, stages), problem.precision == "fp16"
    checked = np.where(sharded, 0.0, traffic.overflow_tensor_host_s) * looks
    host = total(tensors) * (np.where(zero, traffic.zero_tensor_host_s * host_slowness(problem), 0.0) + checked)
    if problem.stack.zero_copies_slices:
        host = host + total(tensors) * np.where(zero, columns.replicas * float(problem.hardware.kernel_launch_s), 0.0)
    waits, at_once, own = np.zeros(len(stages)), in_one_pass(problem, columns), problem.stack.compiled
    moved_bytes = np.where(at_once, own.one_pass_bytes if own else 0.0, traffic.optimizer_bytes)
    moved_bytes = moved_bytes + np.where(sharded & looks, ELEMENT_BYTES[problem.precision], 0.0)
    # Part by part, which keeps the sum affine in the layers of a stage.
    for name, parameters in stage_parameters(problem, stages).items():
        moved = traffic_seconds(problem, parameters * moved_bytes) / np.where(sharded, columns.replicas, 1)
        waits = waits + np.maximum(tensors[name] * float(traffic.tensor_host_s) - moved, 0.0)
    in_buckets = np.where(zero, total(stage_parameters(problem, stages)) * traffic.zero_gradient_bytes, 0.0)
    moved = traffic_seconds(problem, on_device * moved_bytes + in_buckets)
    return moved + host + np.where(plain & ~at_once, waits, 0.0)


@formula("radford2019")
def stage_tensors(problem: Problem, stages: StageColumns) -> Terms:
    """Parameter tensors of each stage, by the parts of :func:`planner.cost_model.parameters.stage_parameters`."""
    one_copy = problem.model.tied_embeddings & stages.is_first
    ends = {name: np.float64(len(tensors)) for name, tensors in end_tensors(problem.model).items()}
    routed, experts = routed_of(problem), {}
    tensors, layers = len(block(problem).tensors), stages.num_layers.astype(np.float64)
    if routed is not None:
        each = routed.count * sum(len(product.tensors) for product in routed.products)
        tensors -= each
        experts = {"experts": each / expert_mesh(problem, stages.layouts).group * expert_layers(problem, stages)}
    return {
        "layers": tensors * layers,
        **experts,
        "token_embedding": ends["token_embedding"] * stages.is_first,
        "position_embedding": ends["position_embedding"] * stages.is_first,
        "final_norm": ends["final_norm"] * stages.is_last,
        "head": (stages.is_last & ~one_copy).astype(np.float64),
    }


@formula("colossalai0.5.0")
def offload_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The optimizer step of the offloaded share, which nothing overlaps.

    Per parameter of the shard: a 4-byte gradient to the host and 4 bytes of master weight back, each as
    fast as the device's own host link and the stack's way of copying allow, and the update's traffic
    over the host memory that all ranks of the node share. Under ZeRO 3 the copies are
    :func:`sharded_copy_seconds`. Units: s.
    """
    columns, stack, host = stages.layouts, problem.stack, problem.hardware.host
    in_pieces = columns.zero_stage >= SHARDS_WEIGHTS
    offloaded = updated_parameters(problem, stages) * columns.offload_optimizer
    link_bytes_per_s, out = host.device_bandwidth_bytes_per_s, stack.offload_copy_bandwidth_bytes_per_s
    back = stack.offload_return_bandwidth_bytes_per_s or out
    out_bytes_per_s, back_bytes_per_s = min(link_bytes_per_s, out), min(link_bytes_per_s, back)
    plain = offloaded * (4.0 / out_bytes_per_s + 4.0 / back_bytes_per_s)
    copies = np.where(in_pieces, sharded_copy_seconds(problem, stages), plain)
    of_pieces = stack.traffic.host_optimizer_bytes or stack.traffic.optimizer_bytes
    moved = offloaded * np.where(in_pieces, of_pieces, stack.traffic.optimizer_bytes)
    share = host.memory_bandwidth_bytes_per_s / min(problem.devices_per_node, problem.num_devices)
    update = moved / min(share, stack.traffic.host_bandwidth_bytes_per_s)
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
    seconds = moved / min(host.device_bandwidth_bytes_per_s, sharded.copy_bandwidth_bytes_per_s)
    return np.where(columns.zero_stage >= SHARDS_WEIGHTS, seconds, 0.0)


@formula("colossalai0.5.0")
def nvme_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Reading and writing the moments on NVMe, which all ranks of a node share, once a step. Units: s."""
    host = problem.hardware.host
    on_node = nvme_bytes_per_rank(problem, stages) * min(problem.devices_per_node, problem.num_devices)
    return on_node / host.nvme_read_bytes_per_s + on_node / host.nvme_write_bytes_per_s
