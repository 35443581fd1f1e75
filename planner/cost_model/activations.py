"""Activations: what forward keeps for backward, and the working sets at the peaks."""

import numpy as np

from planner.cost_model.sources import formula
from planner.problem import Problem
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, StageColumns, microbatch_tokens, padded_vocab


@formula("korthikanti2022", "dao2022")
def layer_activation_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Bytes that one layer keeps of one micro batch.

    ``T h (e (r + c/t) + m)`` with ``T`` tokens, ``e`` bytes per element, ``r`` replicated and ``c``
    sharded elements of the stack and ``m`` mask bytes while dropout is on; in 16 bit with dropout
    ``T h (10 + 24/t)``, equation 2 without its attention scores. Materialised scores add
    ``a s T / t`` times their element and mask bytes. Sequence parallelism divides ``r`` and ``m`` by
    ``t`` as well (equation 4).
    """
    model, kept, columns = problem.model, problem.stack.activations, stages.layouts
    element, tensor = ELEMENT_BYTES[problem.precision], columns.tensor_parallel
    replicas = np.where(columns.sequence_parallel == 1, tensor, 1)
    dropout = 1.0 if model.dropout > 0 else 0.0
    tokens = microbatch_tokens(problem, columns)
    whole = element * kept.replicated_elements + dropout * kept.dropout_mask_bytes
    hidden = tokens * model.hidden_size * (whole / replicas + element * kept.sharded_elements / tensor)
    if kept.attention == "flash":
        return hidden
    score_bytes = element * kept.score_elements + dropout * kept.score_mask_bytes
    return hidden + tokens * problem.seq_len * model.num_heads / tensor * score_bytes


@formula("korthikanti2022", "colossalai0.5.0")
def boundary_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Bytes of one hidden state of one micro batch, ``T h e``; divided by ``t`` under sequence parallelism."""
    columns = stages.layouts
    replicas = np.where(columns.sequence_parallel == 1, columns.tensor_parallel, 1)
    element = ELEMENT_BYTES[problem.precision]
    return microbatch_tokens(problem, columns) * float(problem.model.hidden_size * element) / replicas


@formula("narayanan2021", "colossalai0.5.0")
def in_flight_microbatches(stages: StageColumns) -> Floats:
    """Micro batches whose activations a stage holds at once, as whole-stage equivalents.

    1F1B: stage ``s`` of ``p`` holds ``min(M, p - s)``. Interleaved with ``v`` chunks:
    ``(2 (p - s - 1) + (v - 1) p + 1) / v``, at most ``M``.
    """
    columns = stages.layouts
    behind = columns.pipeline_parallel - stages.stage
    chunks = columns.num_model_chunks
    interleaved = (2 * (behind - 1) + (chunks - 1) * columns.pipeline_parallel + 1) / chunks
    held = np.where(columns.schedule_is("interleaved"), interleaved, behind)
    return np.minimum(held, columns.num_microbatches)


@formula("korthikanti2022")
def kept_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Activations of all layers of a stage over its micro batches in flight.

    A layer that recomputes keeps only its input; the others keep :func:`layer_activation_bytes`.
    """
    plain = stages.num_layers - stages.recompute_layers
    per_microbatch = plain * layer_activation_bytes(problem, stages) + stages.recompute_layers * boundary_bytes(
        problem, stages
    )
    return in_flight_microbatches(stages) * per_microbatch


@formula("colossalai0.5.0")
def pipeline_buffer_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Stage outputs that every micro batch in flight holds; none without a pipeline.

    A stage's input is its first layer's input, which is counted with the layers.
    """
    columns = stages.layouts
    held = in_flight_microbatches(stages) * problem.stack.activations.pipeline_elements
    return np.where(columns.pipeline_parallel > 1, held * boundary_bytes(problem, stages), 0.0)


@formula("korthikanti2022")
def recompute_working_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Activations of the one layer that backward is recomputing."""
    return np.where(stages.recompute_layers > 0, layer_activation_bytes(problem, stages), 0.0)


@formula("colossalai0.5.0")
def logits_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Logits and the copies of them that the loss holds at its peak, on the last stage: ``k T v/t``."""
    columns, kept = stages.layouts, problem.stack.activations
    vocab_share = padded_vocab(problem, columns) / columns.tensor_parallel
    full = problem.precision == "fp32"
    whole_bytes = kept.logits_full_bytes if full else kept.logits_mixed_bytes
    split_bytes = kept.split_logits_full_bytes if full else kept.split_logits_mixed_bytes
    logit_bytes = np.where(columns.tensor_parallel > 1, split_bytes, whole_bytes)
    return np.where(stages.is_last, microbatch_tokens(problem, columns) * vocab_share * logit_bytes, 0.0)


@formula("definition")
def ends_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What lies outside the layers: the embedding's dropout mask, the final norm's input and output.

    One byte per token and hidden unit on the first stage while dropout is on, for each micro batch in
    flight; two hidden states on the last stage.
    """
    masks = float(problem.model.dropout > 0) * problem.model.hidden_size
    mask_bytes = in_flight_microbatches(stages) * microbatch_tokens(problem, stages.layouts) * masks
    norm_bytes = 2.0 * boundary_bytes(problem, stages)
    return np.where(stages.is_first, mask_bytes, 0.0) + np.where(stages.is_last, norm_bytes, 0.0)
