"""Time of tensor, pipeline and data-parallel communication."""

from typing import NamedTuple

import msgspec
import numpy as np

from planner.cost_model.activations import boundary_bytes
from planner.cost_model.buckets import bucket_seconds
from planner.cost_model.chunks import pieces
from planner.cost_model.compute import weight_products
from planner.cost_model.parameters import copied_parameters, stage_parameters
from planner.cost_model.parts import block
from planner.cost_model.products import Passes, Products
from planner.cost_model.rings import axis_strides, cluster_of, expert_axis_apart, ring_links, ring_seconds
from planner.cost_model.sequence_communication import sequence_seconds
from planner.cost_model.shares import shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.compilation import shards_itself
from planner.layouts.layout import SHARDS_GRADIENTS, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.sequences import tensor_stride
from planner.layouts.stages import Floats, Integers, StageColumns, microbatch_tokens, once_per_places, padded_vocab
from planner.layouts.topology import link_columns
from planner.specs import ELEMENT_BYTES

PAIR_OF_STAGES = 2
SCATTER_AND_GATHER = 2.0
"""Ring steps of a reduce-scatter and an all-gather: runtime/engines/reduction.py and gathering.py."""


@once_per_places
def replica_links(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Bandwidth (bytes/s) and latency (s) of rings over all ranks that hold the same part of the model."""
    columns, stride = stages.layouts, axis_strides(problem, stages)[0]
    # Nearly always there is no group of all-to-all, whose ranks stand next to each other.
    adjacent = columns.sequence_parallel_degree
    if expert_axis_apart(problem, columns):
        expert, tensor = columns.expert_parallel, columns.tensor_parallel
        return link_columns(cluster_of(problem).ring, stride, columns.data_parallel // expert, expert, tensor)
    sizes = (columns.data_parallel,) if (adjacent == 1).all() else (columns.data_parallel, adjacent)
    return link_columns(cluster_of(problem).ring, stride, *sizes)


class LayerCollectives(NamedTuple):
    """Communication of one layer for one micro batch. Units: s."""

    once: Floats
    """Forward and backward."""
    recomputed: Floats
    """On top where the layer recomputes."""


def _tensor_parallel_ring(problem: Problem, stages: StageColumns, num_bytes: Floats, steps: float) -> Floats:
    """A collective over the 1D tensor-parallel group, whose ranks wait for each other; nothing in a grid."""
    columns = stages.layouts
    size = np.where(columns.mode_is("2d", "2.5d", "3d"), 1, columns.tensor_parallel)
    bandwidth, latency = ring_links(problem, tensor_stride(problem, columns), size)
    fixed = np.log2(size) * float(problem.stack.traffic.collective_s) * steps / 2.0
    return ring_seconds(num_bytes, size, steps, bandwidth, latency) + fixed


@formula("shoeybi2019", "colossalai0.5.0")
@once_per_places
def layer_collectives(problem: Problem, stages: StageColumns) -> LayerCollectives:
    """Collectives of one layer and micro batch over the 1D tensor-parallel group, and all-to-all. Units: s.

    In forward an all-reduce of the output of every product whose input is divided, two of GPT-2's; in backward one of
    the input gradient of every product whose output is divided, of which the stack hides a share behind the weight
    gradients, unless the schedule puts these off; those of forward once more where it recomputes. Sequence
    parallelism has a scatter in place of each of the one kind and a gather for each of the other, half of an
    all-reduce, each with what its ranks take to meet; backward gathers the output gradients and, unless the stack
    keeps them, inputs, and hides a share of its scatters. A library may gather the input of several products once.
    Between nodes a stack may hide those of slices otherwise: :func:`behind_products`.
    """
    own, exchange = block(problem), sequence_seconds(problem, stages)
    columns, inner = stages.layouts, float(own.divided("inner"))
    exposed = 1.0 - problem.stack.overlap.tensor_parallel * ~columns.schedule_is("zbv")
    in_slices = columns.sequence_parallel == 1
    outer = np.where(in_slices, float(own.gathered_inputs), float(own.divided("outer")))
    full: Floats = boundary_bytes(problem, stages) * np.where(in_slices, columns.tensor_parallel, 1)
    meeting = in_slices * float(problem.stack.traffic.slice_collective_s)
    reduce = _tensor_parallel_ring(problem, stages, full, 2.0) + 2.0 * meeting
    gather = _tensor_parallel_ring(problem, stages, full, 1.0) + meeting
    gathers = inner + outer * (problem.stack.activations.gathered_elements == 0)
    hidden = behind_products(problem, stages, gather)
    scatters = outer * np.where(hidden.backward > 0, 1.0, exposed)
    backward = np.where(in_slices, (gathers + scatters) * gather - hidden.backward, outer * exposed * reduce)
    forward = np.where(in_slices, (inner + outer) / 2.0, inner) * reduce - hidden.forward
    return LayerCollectives(forward + backward + exchange.forward + exchange.backward, forward + exchange.forward)


@formula("definition")
def behind_products(problem: Problem, stages: StageColumns, gather: Floats) -> Passes:
    """What the products of a layer hide of the collectives of slices between nodes, forward and backward. Units: s.

    Each collective hides behind the product that the stack issues beside it, as far as that is as long: where the
    output is divided, gathers of inputs in forward behind a rank's own slice of the product, and in backward behind
    the input gradient, and scatters behind the weight gradient; where the input is, gathers of gradients behind a
    rank's own slice. Inside a node the links and the products slow each other: ``overlap.tensor_parallel``.
    """
    columns, share = stages.layouts, problem.stack.overlap.far_slices
    far = (columns.sequence_parallel == 1) & (columns.tensor_parallel > problem.devices_per_node)
    nothing = np.zeros(len(stages))
    if not share or not far.any():
        return Passes(nothing, nothing)
    forward, backward, seconds = nothing, nothing, weight_products(problem, stages)
    for product in block(problem).products:
        made = seconds[product.name]
        own = Products(*(np.minimum(gather, one / columns.tensor_parallel) for one in made))
        whole = Products(*(np.minimum(gather, one) for one in made))
        if product.divided == "outer":
            forward, backward = forward + own.output, backward + whole.of_input + whole.of_weight
        elif product.divided == "inner":
            backward = backward + own.of_input
    return Passes(share * far * forward, share * far * backward)


@formula("shoeybi2019", "colossalai0.5.0")
def tensor_parallel_seconds(problem: Problem, stages: StageColumns) -> Terms:
    """Communication of one micro batch over the 1D tensor-parallel group, by part. Units: s.

    Grids are in :mod:`planner.cost_model.grid_communication`. Layers: :func:`layer_collectives`. Embedding
    and head: one all-reduce each; the loss: three of one 4-byte number a token.
    """
    layer = layer_collectives(problem, stages)
    return {
        "layers": stages.num_layers * layer.once + stages.recompute_layers * layer.recomputed,
        "embedding_and_loss": _end_collectives(problem, stages),
    }


@once_per_places
def _end_collectives(problem: Problem, stages: StageColumns) -> Floats:
    columns = stages.layouts
    full: Floats = boundary_bytes(problem, stages) * np.where(
        columns.sequence_parallel == 1, columns.tensor_parallel, 1
    )
    reduce = _tensor_parallel_ring(problem, stages, full, 2.0)
    loss = 3.0 * _tensor_parallel_ring(problem, stages, microbatch_tokens(problem, columns) * 4.0, 2.0)
    return np.where(stages.is_first, reduce, 0.0) + np.where(stages.is_last, reduce + loss, 0.0)


@formula("narayanan2021", "colossalai0.5.0")
@once_per_places
def pipeline_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Blocking sends of one micro batch: a hidden state on to the next stage, its gradient back.

    Under the interleaved schedule every chunk sends, also from the last stage to the first, and the stack
    may hide a share of it. In a V nobody waits for a send (zero_bubble_pp.py:907-911): what a message takes is part
    of when its receiver can start. Units: s.
    """
    columns = stages.layouts
    ends = stages.is_first.astype(np.float64) + stages.is_last
    exposed = 1.0 - problem.stack.overlap.pipeline
    sends = np.where(columns.num_model_chunks > 1, 2.0 * columns.num_model_chunks * exposed, 2.0 - ends)
    sends = np.where(columns.schedule_is("zbv"), 0.0, sends)
    return message_seconds(problem, stages) * sends


@formula("narayanan2021", "colossalai0.5.0")
@once_per_places
def message_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """One hidden state, or its gradient, from a stage to its neighbour.

    Where the stack sends slices, each tensor-parallel rank sends its own and the next stage gathers them. Units: s.
    """
    columns = stages.layouts
    _, stride = axis_strides(problem, stages)
    bandwidth, latency = link_columns(cluster_of(problem).neighbours, stride, columns.pipeline_parallel)
    sent, gathered = boundary_bytes(problem, stages), np.zeros(len(stages))
    if problem.stack.pipeline_slices:
        whole = columns.sequence_parallel == 0
        gathered = np.where(whole, _tensor_parallel_ring(problem, stages, sent, 1.0), 0.0)
        sent = sent / np.where(whole, columns.tensor_parallel, 1)
    return np.where(columns.pipeline_parallel > 1, sent / bandwidth + latency + gathered, 0.0)


@formula("narayanan2021", "definition")
def message_wait_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What the hosts of a pipeline wait for its messages in one step, beside what these take the links.

    A host waits ``w`` for each tensor that it sends or receives, ``t`` of them over a boundary for a micro batch and
    its gradient. Stages between two others have two boundaries, and the first of them is ``p - 2`` boundaries from the
    last stage: it waits ``w t (2 M + p - 2)`` from its first message to its last, less ``w t`` that both ends of those
    boundaries wait together. Two stages have one boundary: ``w t M``. The same for all stages of a layout. Units: s.
    """
    columns, traffic = stages.layouts, problem.stack.traffic
    each = float(traffic.message_host_s) * traffic.message_tensors
    depth, count = columns.pipeline_parallel, columns.num_microbatches
    waits = np.where(depth > PAIR_OF_STAGES, 2.0 * count + depth - 3.0, count)
    return np.where(depth > 1, each * waits, 0.0)


@formula("rajbhandari2020", "colossalai0.5.0")
def data_parallel_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Reduction of a stage's gradients, and under ZeRO the gathering of its weights; nothing hidden yet.

    Gradient bytes times the stack's ring steps for the ZeRO stage. ZeRO 2 keeps only its own share of
    the gradients, so it scatters them after every micro batch; its weights are gathered once. Compiled ZeRO 1
    scatters too, once. Stacks that reduce by layer wait for the links once for each. ZeRO 3 communicates with every
    micro batch: :func:`sharded_seconds`. Units: s.
    """
    return bucket_seconds(problem, stages) + reduction_seconds(
        problem, stages, copied_parameters(problem, stages), stages.layouts.replicas, replica_links(problem, stages)
    )


def reduction_seconds(
    problem: Problem, stages: StageColumns, parameters: Floats, size: Integers, links: tuple[Floats, Floats]
) -> Floats:
    """:func:`data_parallel_seconds` of ``parameters`` that ``size`` ranks have copies of, over their ``links``."""
    columns, traffic = stages.layouts, problem.stack.zero_traffic
    bandwidth, latency = links
    weights = parameters * ELEMENT_BYTES[problem.precision]
    every_microbatch = 1.0 + (traffic.stage2 - 1.0) * columns.num_microbatches
    sharded = np.where(shards_itself(problem, columns), SCATTER_AND_GATHER, traffic.stage1)
    fixed = np.where(columns.zero_stage == 0, traffic.stage0, sharded)
    steps = np.where(columns.zero_stage >= SHARDS_GRADIENTS, every_microbatch, fixed)
    steps = np.where(columns.zero_stage >= SHARDS_WEIGHTS, 0.0, steps)
    collectives = np.maximum(stages.num_layers, 1) if traffic.by_layer else 1.0
    return steps * ring_seconds(weights, size, 1.0, bandwidth, latency * collectives)


@formula("rajbhandari2020", "colossalai0.5.0")
def zero_gather_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The part of :func:`data_parallel_seconds` that gathers updated weights, where that hides behind nothing.

    One ring all-gather of a stage's weights under ZeRO 1 and 2. Units: s.
    """
    return gathering_seconds(
        problem, stages, copied_parameters(problem, stages), stages.layouts.replicas, replica_links(problem, stages)
    )


def gathering_seconds(
    problem: Problem, stages: StageColumns, parameters: Floats, size: Integers, links: tuple[Floats, Floats]
) -> Floats:
    """:func:`zero_gather_seconds` of ``parameters`` that ``size`` ranks have copies of, over their ``links``."""
    columns, (bandwidth, latency) = stages.layouts, links
    gathers = (columns.zero_stage >= 1) & (columns.zero_stage < SHARDS_WEIGHTS)
    seconds = ring_seconds(parameters * ELEMENT_BYTES[problem.precision], size, 1.0, bandwidth, latency)
    return np.where(gathers & (not problem.stack.overlap.gathers_hide), seconds, 0.0)


@formula("rajbhandari2020", "colossalai0.5.0")
def sharded_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Gathering of weights and scattering of gradients under ZeRO 3 for one micro batch, nothing hidden yet.

    The stack's gathers and scatters of all pieces, each a ring collective with its own latency; a model
    that is not sharded all-reduces its gradients. Units: s.
    """
    columns, sharded, plan = stages.layouts, problem.stack.sharded, pieces(problem)
    size = columns.replicas
    bandwidth, latency = _piece_links(problem, stages)
    parts = stage_parameters(problem, stages)
    layers = parts["layers"] + parts["experts"] if "experts" in parts else parts["layers"]
    recomputed = layers * stages.recompute_layers / np.maximum(stages.num_layers, 1)
    passes = sharded.gathers + sharded.scatters if plan.is_sharded else 2.0
    again = sharded.recompute_gathers if plan.is_sharded else 0.0
    moved = (passes * total(parts) + again * recomputed) * plan.padding
    collectives = moved * columns.tensor_parallel / plan.layer * sharded.collectives_per_unit
    bytes_moved = moved * ELEMENT_BYTES[problem.precision]
    seconds = ring_seconds(bytes_moved, size, 1.0, bandwidth, latency * collectives)
    return np.where(columns.zero_stage >= SHARDS_WEIGHTS, seconds, 0.0)


def _piece_links(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Of :func:`replica_links` what collectives of pieces reach: the stack's share of all adapters of a node.

    What one collective reaches of them at most limits that, and is not shared again.
    """
    (most, latency), share = replica_links(problem, stages), problem.stack.sharded.link_share
    network = problem.hardware.network
    if network.ring_bytes_per_s is None:
        return most * share, latency
    free = msgspec.structs.replace(network, ring_bytes_per_s=None)
    hardware = msgspec.structs.replace(problem.hardware, network=free)
    bandwidth, _ = replica_links(msgspec.structs.replace(problem, hardware=hardware), stages)
    return np.minimum(bandwidth * share, most), latency


@formula("colossalai0.5.0")
@once_per_places
def tied_embedding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """All-reduce of the tied embedding's gradient between the first and the last stage, once a step.

    Nothing in a V, whose first stage holds the one tensor that both are.
    """
    columns = stages.layouts
    pair = np.minimum(columns.pipeline_parallel, 2)
    _, stride = axis_strides(problem, stages)
    bandwidth, latency = link_columns(cluster_of(problem).ends, stride, columns.pipeline_parallel)
    vocab_share = padded_vocab(problem, columns) * shares(columns).matrix
    gradient = vocab_share * problem.model.hidden_size * ELEMENT_BYTES[problem.precision]
    tied = float(problem.model.tied_embeddings) * ~columns.schedule_is("zbv")
    return tied * ring_seconds(gradient, pair, 2.0, bandwidth, latency)
