"""Activations: what forward keeps for backward, and the working sets at the peaks."""

import numpy as np

from planner.cost_model.compiled import with_compiled_counts
from planner.cost_model.deferred import deferred_bytes, output_gradient_bytes, routed_deferred_bytes
from planner.cost_model.expert_shares import routed_kept_bytes, routed_working_bytes
from planner.cost_model.parameters import layer_parameters
from planner.cost_model.parts import block, counted_whole, final_norm, kept_elements, remade_elements, working_elements
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.layouts.degrees import edge_of
from planner.layouts.division import full_stage, missing_layers
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.sequences import passes_keys
from planner.layouts.stages import Floats, Integers, StageColumns, once_per_places, once_per_stages, padded_vocab
from planner.layouts.zero_bubble import most_held
from planner.specs import ELEMENT_BYTES

IN_TRANSIT = 2
"""Hidden states of a chunk under a V that have left it or not come to it yet: one that is sent, one received."""


@formula("korthikanti2022", "dao2022", "xu2021", "wang2021")
@once_per_places
@with_compiled_counts
def layer_activation_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Bytes that one layer keeps of one micro batch.

    ``T h (e (r + c/t) + m)`` with ``T`` tokens, ``e`` bytes per element, ``r`` replicated and ``c``
    sharded elements of the stack and ``m`` mask bytes while dropout is on; in 16 bit with dropout
    ``T h (10 + 24/t)``, equation 2 without its attention scores. Materialised scores add
    ``a s T / t`` times their element and mask bytes. Sequence parallelism divides ``r`` and ``m`` by
    ``t`` as well (equation 4), beside :func:`gathered_input_bytes`. Attention that stores no scores adds
    its softmax statistics. What backward makes again without a product is not kept. 2D and 2.5D divide
    everything by ``t``, tokens by the one axis of the grid and hidden states by the other, and 3D adds
    :func:`gathered_operand_bytes`.
    """
    model, kept, columns = problem.model, problem.stack.activations, stages.layouts
    element, part = ELEMENT_BYTES[problem.precision], shares(columns)
    dropout = 1.0 if model.dropout > 0 else 0.0
    tokens = rank_tokens(problem, stages)
    (replicated, sharded), made_again = kept_elements(problem), remade_elements(problem)
    whole = element * (replicated - columns.recompute_pointwise * made_again.whole) + dropout * kept.dropout_mask_bytes
    split = element * (sharded - columns.recompute_pointwise * made_again.split)
    hidden = tokens * model.hidden_size * (whole * part.whole_hidden + split * part.split_hidden)
    hidden = hidden + gathered_input_bytes(problem, stages) + gathered_operand_bytes(problem, stages)
    hidden = hidden + exchanged_bytes(problem, stages)
    if kept.attention in ("flash", "unskipped"):
        return hidden + tokens * model.num_heads * part.split_hidden * kept.softmax_bytes
    if kept.attention != "materialised":
        return hidden
    score_bytes = element * kept.score_elements + dropout * kept.score_mask_bytes
    return hidden + tokens * problem.seq_len * model.num_heads * part.split_hidden * score_bytes


@formula("colossalai0.5.0")
@once_per_places
def gathered_input_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Inputs of one layer's products that sequence parallelism keeps as gathered, of one micro batch."""
    columns = stages.layouts
    gathered = gathered_inputs(problem) * ELEMENT_BYTES[problem.precision]
    in_slices = (columns.sequence_parallel == 1) & (columns.tensor_parallel > 1)
    return np.where(in_slices, rank_tokens(problem, stages) * problem.model.hidden_size * gathered, 0.0)


@formula("definition")
@once_per_places
def gather_buffer_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Buffers for whole hidden states, into which sequence parallelism gathers slices and which stay."""
    columns, buffers = stages.layouts, problem.stack.activations.gather_buffers
    state = rank_tokens(problem, stages) * float(problem.model.hidden_size * ELEMENT_BYTES[problem.precision])
    in_slices = (columns.sequence_parallel == 1) & (columns.tensor_parallel > 1)
    return np.where(in_slices, buffers * state, 0.0)


def gathered_inputs(problem: Problem) -> float:
    """Inputs of a layer that stay gathered: those of products whose output is divided, or none."""
    keeps = problem.stack.activations.gathered_elements > 0
    return float(block(problem).gathered_inputs) * keeps


@formula("colossalai0.5.0")
def outliving_bytes(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Gathered inputs that outlive backward: while the next forward runs, and when a backward ends.

    They hang on the nodes of the autograd graph, not among its saved tensors, so that they go with the
    micro batch's loss: one micro batch more than the schedule holds, if there is one before, and all
    layers that do not recompute instead of the first alone.
    """
    columns, layers = stages.layouts, stages.num_layers - stages.recompute_layers
    if not problem.stack.activations.gathered_outlive_backward:
        return np.zeros(len(stages)), np.zeros(len(stages))
    per_layer = gathered_input_bytes(problem, stages)
    before = np.minimum(in_flight_microbatches(stages) + 1.0 / columns.num_model_chunks, columns.num_microbatches)
    more = np.maximum(before - in_flight_microbatches(stages), 0.0)
    return more * layers * per_layer, np.maximum(layers - 1, 0) * per_layer


@formula("jacobs2023", "colossalai0.5.0")
@once_per_places
def exchanged_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Attention's output as all-to-all brings it back to a rank's tokens, kept beside the one of its heads.

    Where attention keeps its output twice, this takes the place of the second.
    """
    columns, element = stages.layouts, ELEMENT_BYTES[problem.precision]
    exchanges = (columns.sequence_parallel_degree > 1) & (not passes_keys(problem))
    kept_twice = problem.stack.parts.contiguous_attention and not counted_whole(problem.model)
    if kept_twice or not exchanges.any():
        return np.zeros(len(stages))
    output = rank_tokens(problem, stages) * problem.model.query_size * shares(columns).split_hidden * float(element)
    return np.where(exchanges, output, 0.0)


@formula("bian2021", "colossalai0.5.0")
@once_per_places
def gathered_operand_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What 3D products keep beyond their own part of the input: both operands as gathered.

    Inputs of the four products, ``3 h + f`` a token, are kept ``c`` times as large as the rank's part,
    and the layer's matrices ``c`` times as large as the rank's weights.
    """
    model, columns = problem.model, stages.layouts
    if not columns.mode_is("3d").any():
        return np.zeros(len(stages))
    edge, element = edge_of(columns).astype(np.float64), ELEMENT_BYTES[problem.precision]
    inputs = rank_tokens(problem, stages) * (3 * model.hidden_size + model.ffn_hidden_size) * (1.0 - 1.0 / edge)
    matrices = layer_parameters(model).matrices / edge**2
    return np.where(columns.mode_is("3d"), element * (inputs + matrices), 0.0)


@formula("korthikanti2022", "colossalai0.5.0")
@once_per_places
def boundary_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Bytes of one hidden state of one micro batch, ``T h e``; divided in a grid and under sequence parallelism."""
    element = ELEMENT_BYTES[problem.precision]
    part = shares(stages.layouts).whole_hidden
    return rank_tokens(problem, stages) * float(problem.model.hidden_size * element) * part


@formula("narayanan2021", "colossalai0.5.0")
def in_flight_microbatches(stages: StageColumns) -> Floats:
    """Micro batches whose activations a stage holds at once, as whole-stage equivalents.

    1F1B: stage ``s`` of ``p`` holds ``min(M, p - s)``. Interleaved with ``v`` chunks:
    ``(2 (p - s - 1) + (v - 1) p + 1) / v``, at most ``M``. In a V each holds ``min(M, p)`` until their weight
    gradients are there: :func:`planner.layouts.zero_bubble.most_held`.
    """
    columns = stages.layouts
    behind = columns.pipeline_parallel - stages.stage
    chunks = columns.num_model_chunks
    interleaved = (2 * (behind - 1) + (chunks - 1) * columns.pipeline_parallel + 1) / chunks
    held = np.where(columns.schedule_is("interleaved"), interleaved, behind)
    held = np.where(columns.schedule_is("zbv"), most_held(columns.pipeline_parallel) / chunks, held)
    return np.minimum(held, columns.num_microbatches)


@formula("korthikanti2022")
def kept_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Activations of all layers of a stage over its micro batches in flight.

    A layer that recomputes keeps only its input; the others keep :func:`layer_activation_bytes`, or after backward
    what their weight gradients hold, if that is more. Chunks that hold fewer layers are in flight more often or less
    often than the others: :func:`shorter_chunk`.
    """
    plain = stages.num_layers - stages.recompute_layers
    per_microbatch = plain * layer_activation_bytes(problem, stages) + stages.recompute_layers * boundary_bytes(
        problem, stages
    )
    if problem.model.experts is not None:
        per_microbatch = per_microbatch + routed_kept_bytes(problem, stages, plain)
    in_v = stages.layouts.schedule_is("zbv")
    if in_v.any():
        deferred = plain * deferred_bytes(problem, stages) + routed_deferred_bytes(problem, stages, plain)
        per_microbatch = np.where(in_v, np.maximum(per_microbatch, deferred), per_microbatch)
    held, (missing, passes) = in_flight_microbatches(stages), shorter_chunk(problem, stages)
    per_layer = per_microbatch / np.maximum(stages.num_layers, 1)
    return held * per_microbatch + (held - passes) * missing * per_layer


@formula("narayanan2021")
@once_per_stages
def shorter_chunk(problem: Problem, stages: StageColumns) -> tuple[Integers, Integers]:
    """Layers that one chunk of a stage lacks, and the micro batches in flight of that chunk where the stage is fullest.

    Interleaved, with the ends counted as layers: the first chunk of the first stage holds ``2 p - 1`` micro batches
    of the group it works on and of the one before, at most ``M``; the last chunk of the last stage goes backward
    right after forward, and holds one only where no other group follows that fills the other chunks.
    """
    columns = stages.layouts
    ends = (stages.is_first | stages.is_last) & columns.schedule_is("interleaved")
    if not problem.stack.ends_as_layers or not ends.any():
        return np.zeros(len(stages), dtype=np.int64), np.zeros(len(stages), dtype=np.int64)
    lacks = ends & (missing_layers(problem, columns) > 0)
    missing = np.where(lacks, np.clip(full_stage(problem, columns) - stages.num_layers, 0, 1), 0)
    count, each = columns.num_microbatches, columns.pipeline_parallel
    return missing, np.where(stages.is_first, np.minimum(2 * each - 1, count), count <= each)


@formula("definition")
def apart_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What a stage keeps more, at most, where a job keeps the documents of a sequence apart.

    Queries, keys, values and outputs of attention are kept in stacks of documents, padded by less than a quarter, and
    the outputs in their places too: ``3 / 4 + 1 / 4 + 1 = 2`` times ``e T q / t`` a layer, of ``q`` units over all
    heads. What recomputes does so one layer at a time.
    """
    size = 2 * ELEMENT_BYTES[problem.precision] * problem.model.query_size
    layer = rank_tokens(problem, stages) * size * shares(stages.layouts).split_hidden
    plain = stages.num_layers - stages.recompute_layers
    return layer * (in_flight_microbatches(stages) * plain + np.minimum(stages.recompute_layers, 1))


@formula("colossalai0.5.0")
def mask_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Attention masks: one square of the sequence for each sequence in flight, and one each layer owns."""
    kept, pairs = problem.stack.activations, float(problem.seq_len**2)
    made = in_flight_microbatches(stages) * stages.layouts.micro_batch * kept.mask_elements
    own = float(problem.model.max_seq_len**2) * kept.causal_buffer_bytes * stages.num_layers
    return made * pairs * ELEMENT_BYTES[problem.precision] + own


@formula("colossalai0.5.0")
@once_per_places
def pipeline_buffer_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Stage outputs that every micro batch in flight holds; none without a pipeline.

    A stage's input is its first layer's input, which is counted with the layers. Under the interleaved
    schedule each of the ``v`` chunks has an input and an output of its own. In a V outputs are given up when they
    have been sent (zero_bubble_pp.py:709-721): of each chunk there is one on its way and what arrives next.
    """
    columns, kept = stages.layouts, problem.stack.activations
    extra = np.where(stages.is_last, 0.0, kept.pipeline_extra_microbatches)
    held = np.minimum(in_flight_microbatches(stages) + extra, columns.num_microbatches)
    held = np.where(columns.schedule_is("zbv"), np.minimum(held, IN_TRANSIT), held)
    held = held * kept.pipeline_elements * columns.num_model_chunks
    if kept.pipeline_divided:
        held = held / np.where(columns.sequence_parallel == 1, 1, columns.tensor_parallel)
    return np.where(columns.pipeline_parallel > 1, held * boundary_bytes(problem, stages), 0.0)


@formula("korthikanti2022")
@with_compiled_counts
def layer_backward_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the layer that goes backward takes on top: its recomputed activations and their gradients.

    Gradients of activations are the stack's counts of sharded and of whole elements. In a V those of the outputs of
    products stay, from the layer's first to its last.
    """
    element, part, working = ELEMENT_BYTES[problem.precision], shares(stages.layouts), working_elements(problem)
    elements = part.split_hidden * working.split + part.whole_hidden * working.whole
    gradients = rank_tokens(problem, stages) * float(element) * problem.model.hidden_size * elements
    in_v = stages.layouts.schedule_is("zbv")
    if in_v.any():
        gradients = gradients + in_v * output_gradient_bytes(problem, stages)
    again = layer_activation_bytes(problem, stages)
    if problem.model.experts is not None:
        gradients = np.maximum(gradients, routed_working_bytes(problem, stages))
        again = again + routed_kept_bytes(problem, stages, 1)
    return np.where(stages.recompute_layers > 0, again, 0.0) + gradients


@formula("xu2021", "wang2021", "colossalai0.5.0")
@once_per_places
def summa_buffer_bytes(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Buffers of the largest SUMMA product of a layer, and of the head on the last stage, in 2D and 2.5D.

    Two for parts of the tokens' operand and two for parts of the matrix: one is computed with while the
    next arrives. Of a layer the second product of the feed-forward, ``T f`` and ``f h`` over the grid.
    """
    model, part = problem.model, shares(stages.layouts)
    flat = stages.layouts.mode_is("2d", "2.5d") & (edge_of(stages.layouts) > 1)
    pair = np.where(flat, 2.0 * ELEMENT_BYTES[problem.precision], 0.0)
    tokens = rank_tokens(problem, stages) * part.split_hidden
    h, f = float(model.hidden_size), float(model.ffn_hidden_size)
    vocab = padded_vocab(problem, stages.layouts)
    layer = pair * (tokens * f + f * h * part.matrix)
    head = np.where(stages.is_last, pair * (tokens * vocab + vocab * h * part.matrix), 0.0)
    return layer, head


@formula("korthikanti2022")
def first_layer_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What is kept of a stage's first layer, which goes backward last: its input if it recomputes.

    Layers recompute from the first of a stage on, so the first does if any does.
    """
    plain, inputs = layer_activation_bytes(problem, stages), boundary_bytes(problem, stages)
    if problem.model.experts is not None:
        plain = plain + routed_kept_bytes(problem, stages, 1)
    return np.where(stages.recompute_layers > 0, inputs, plain)


@formula("colossalai0.5.0")
@once_per_places
@with_compiled_counts
def logits_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Logits and the copies of them that the loss holds at its peak, on the last stage: ``k T v/t``.

    3D has the product before its reduce-scatter, ``c`` times the rank's logits, instead of the loss's
    copies where that is more. By chunks of tokens, there are the logits of one, and the gradients of all states and
    of the weight, to which each adds.
    """
    columns, kept = stages.layouts, problem.stack.activations
    full = problem.precision == "fp32"
    whole_bytes = kept.logits_full_bytes if full else kept.logits_mixed_bytes
    split_bytes = kept.split_logits_full_bytes if full else kept.split_logits_mixed_bytes
    grid_bytes = kept.grid_logits_full_bytes if full else kept.grid_logits_mixed_bytes
    in_grid, cube = columns.mode_is("2d", "2.5d", "3d"), columns.mode_is("3d")
    element = ELEMENT_BYTES[problem.precision]
    product = element * (1.0 + edge_of(columns))
    grid = np.where(cube, np.maximum(grid_bytes, product), grid_bytes)
    logit_bytes = np.where(columns.tensor_parallel > 1, np.where(in_grid, grid, split_bytes), whole_bytes)
    sharded = problem.stack.sharded.logits_bytes
    if sharded is not None and not full:
        logit_bytes = np.where(columns.zero_stage >= SHARDS_WEIGHTS, sharded, logit_bytes)
    vocab_share = padded_vocab(problem, columns) * shares(columns).split_hidden
    tokens = rank_tokens(problem, stages)
    if not kept.loss_chunk_tokens:
        return np.where(stages.is_last, tokens * vocab_share * logit_bytes, 0.0)
    chunk = np.minimum(tokens, kept.loss_chunk_tokens) * vocab_share * logit_bytes
    gradients = (tokens + vocab_share) * float(problem.model.hidden_size) * element
    return np.where(stages.is_last, chunk + gradients, 0.0)


@formula("definition")
@once_per_places
@with_compiled_counts
def ends_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What lies outside the layers: the embedding's dropout mask, the final norm's input and output.

    One byte per token and hidden unit on the first stage while dropout is on, for each micro batch in
    flight; on the last stage two hidden states, or what the norms of the blocks keep.
    """
    masks = float(problem.model.dropout > 0) * problem.model.hidden_size
    part = shares(stages.layouts)
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    embedded = rank_tokens(problem, stages) * masks * np.where(in_grid, part.whole_hidden, 1.0)
    norm_bytes = final_norm(problem)[0] * boundary_bytes(problem, stages)
    return np.where(stages.is_first, in_flight_microbatches(stages) * embedded, 0.0) + np.where(
        stages.is_last, norm_bytes, 0.0
    )
