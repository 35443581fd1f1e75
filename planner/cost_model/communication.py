"""Time of tensor, pipeline and data-parallel communication."""

import numpy as np

from planner.cost_model.activations import boundary_bytes
from planner.cost_model.parameters import SHARDS_GRADIENTS, stage_parameters
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.problem import Problem
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, Integers, StageColumns, microbatch_tokens, padded_vocab
from planner.topology import Cluster, link_columns


@formula("thakur2005")
def ring_seconds(
    num_bytes: Floats, size: Integers, steps: float, bandwidth_bytes_per_s: Floats, latency_s: Floats
) -> Floats:
    """A ring collective over ``size`` ranks: ``steps (n-1)/n bytes / bandwidth + steps (n-1) latency``.

    ``steps`` is 2 for all-reduce, 1 for reduce-scatter and all-gather. No time for one rank. Units: s.
    """
    share = (size - 1) / size
    return np.where(size > 1, steps * (share * num_bytes / bandwidth_bytes_per_s + (size - 1) * latency_s), 0.0)


def _cluster(problem: Problem) -> Cluster:
    return Cluster(
        hardware=problem.hardware, devices_per_node=problem.devices_per_node, num_devices=problem.num_devices
    )


def _ring_links(problem: Problem, strides: Integers, sizes: Integers) -> tuple[Floats, Floats]:
    return link_columns(_cluster(problem).ring, strides, sizes)


@formula("shoeybi2019", "colossalai0.5.0")
def tensor_parallel_seconds(problem: Problem, stages: StageColumns) -> Terms:
    """All-reduces of one micro batch over the tensor-parallel group, by part. Units: s.

    Each layer: two in forward, two in backward of which the stack hides a share behind the weight
    gradients, two more where it recomputes; embedding and head one each; the loss three of one
    4-byte number a token. Sequence parallelism replaces an all-reduce by a reduce-scatter and an
    all-gather of the same volume, and gathers both inputs of a layer once more in backward.
    """
    columns = stages.layouts
    size = columns.tensor_parallel
    bandwidth, latency = _ring_links(problem, np.ones_like(size), size)
    full: Floats = boundary_bytes(problem, stages) * np.where(columns.sequence_parallel == 1, size, 1)
    reduce = ring_seconds(full, size, 2.0, bandwidth, latency)
    gather = ring_seconds(full, size, 1.0, bandwidth, latency) * (columns.sequence_parallel == 1)
    numbers = microbatch_tokens(problem, columns) * 4.0
    loss = 3.0 * ring_seconds(numbers, size, 2.0, bandwidth, latency)
    exposed = 1.0 - problem.stack.overlap.tensor_parallel
    per_layer = 2.0 * reduce + 2.0 * exposed * reduce + 2.0 * gather
    return {
        "layers": stages.num_layers * per_layer + stages.recompute_layers * 2.0 * reduce,
        "embedding_and_loss": np.where(stages.is_first, reduce, 0.0) + np.where(stages.is_last, reduce + loss, 0.0),
    }


@formula("narayanan2021", "colossalai0.5.0")
def pipeline_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Blocking sends of one micro batch: a hidden state on to the next stage, its gradient back.

    Under the interleaved schedule every chunk sends, also from the last stage to the first.
    """
    columns = stages.layouts
    bandwidth, latency = link_columns(_cluster(problem).neighbours, columns.tensor_parallel, columns.pipeline_parallel)
    message = np.where(columns.pipeline_parallel > 1, boundary_bytes(problem, stages) / bandwidth + latency, 0.0)
    ends = stages.is_first.astype(np.float64) + stages.is_last
    sends = np.where(columns.num_model_chunks > 1, 2.0 * columns.num_model_chunks, 2.0 - ends)
    return message * sends


@formula("rajbhandari2020", "colossalai0.5.0")
def data_parallel_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Reduction of a stage's gradients, and under ZeRO the gathering of its weights; nothing hidden yet.

    Gradient bytes times the stack's ring steps for the ZeRO stage. ZeRO 2 keeps only its own share of
    the gradients, so it scatters them after every micro batch; its weights are gathered once. Units: s.
    """
    columns, traffic = stages.layouts, problem.stack.zero_traffic
    size = columns.data_parallel
    bandwidth, latency = _ring_links(problem, columns.tensor_parallel * columns.pipeline_parallel, size)
    weights = total(stage_parameters(problem, stages)) * ELEMENT_BYTES[problem.precision]
    every_microbatch = 1.0 + (traffic.stage2 - 1.0) * columns.num_microbatches
    fixed = np.where(columns.zero_stage == 0, traffic.stage0, traffic.stage1)
    steps = np.where(columns.zero_stage >= SHARDS_GRADIENTS, every_microbatch, fixed)
    return steps * ring_seconds(weights, size, 1.0, bandwidth, latency)


@formula("colossalai0.5.0")
def tied_embedding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """All-reduce of the tied embedding's gradient between the first and the last stage, once a step."""
    columns = stages.layouts
    pair = np.minimum(columns.pipeline_parallel, 2)
    bandwidth, latency = link_columns(_cluster(problem).ends, columns.tensor_parallel, columns.pipeline_parallel)
    vocab_share = padded_vocab(problem, columns) / columns.tensor_parallel
    gradient = vocab_share * problem.model.hidden_size * ELEMENT_BYTES[problem.precision]
    tied = float(problem.model.tied_embeddings)
    return tied * ring_seconds(gradient, pair, 2.0, bandwidth, latency)
