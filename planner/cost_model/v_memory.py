"""What stages of a V keep that recompute: which of their layers do, and what is there when a chunk goes backward."""

import numpy as np

from planner.cost_model.activations import boundary_bytes, kept_bytes, layer_activation_bytes
from planner.cost_model.deferred import deferred_bytes, routed_deferred_bytes
from planner.cost_model.expert_shares import routed_kept_bytes
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns
from planner.layouts.zero_bubble import CHUNKS, held_at_backward


@formula("definition")
def recomputed_of_chunks(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Layers that each chunk of a stage in a V recomputes: those of the first one first, or as many of each.

    Activations of the first chunk wait longer for backward. Where a stack has all chunks recompute alike, both
    recompute half. Of an odd number of layers, which no valid stage has, each chunk has half of one.
    """
    if problem.stack.recompute == "alike":
        return stages.recompute_layers / CHUNKS, stages.recompute_layers / CHUNKS
    first = np.asarray(np.minimum(stages.recompute_layers, stages.num_layers / CHUNKS))
    return first, np.asarray(stages.recompute_layers - first)


@formula("korthikanti2022", "qi2023")
def kept_in_phases(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Activations of all layers of a stage, at most, in forward and while a layer goes backward.

    The same but in a V that recomputes, where a stage holds as many micro batches of each chunk as
    :func:`planner.layouts.zero_bubble.held_at_backward` has it: of layers that recompute their inputs. The one whose
    backward it is comes to hold instead what :func:`planner.cost_model.deferred.deferred_bytes` counts, layer by
    layer from the last on, until the gradients of the weights follow. The layer at work is counted by
    :func:`planner.cost_model.activations.layer_backward_bytes`, beside what it kept. Units: bytes.
    """
    kept = kept_bytes(problem, stages)
    rows = np.flatnonzero(stages.recomputes_in_v)
    if not len(rows):
        return kept, kept
    some, size = stages.take(rows), stages.num_layers[rows] / CHUNKS
    plain, inputs, deferred = (column[rows] for column in _each_layer(problem, stages))
    recomputed = recomputed_of_chunks(problem, some)
    chunks = [(size - own) * plain + own * inputs for own in recomputed]
    columns, forward, backward, moments = some.layouts, kept.copy(), kept.copy(), []
    for chunk, own in enumerate(recomputed):
        counts = held_at_backward(some.stage, chunk, columns.pipeline_parallel, columns.num_microbatches)
        whole = counts[0] * chunks[0] + counts[1] * chunks[1]
        before_first = np.maximum(size - 1.0, 0.0) * deferred + np.where(own > 0, inputs, plain)
        before_recomputed = (size - own) * deferred + own * inputs
        at_work = np.maximum(np.maximum(chunks[chunk], before_first), before_recomputed)
        moments.append(whole - chunks[chunk] + at_work)
        forward[rows] = whole
    backward[rows] = np.maximum(*moments)
    return forward, backward


def _each_layer(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats, Floats]:
    """Bytes of one layer and micro batch: kept whole, kept where it recomputes, and held for gradients of weights."""
    plain, deferred = layer_activation_bytes(problem, stages), deferred_bytes(problem, stages)
    if problem.model.experts is not None:
        layers = stages.num_layers - stages.recompute_layers
        plain = plain + routed_kept_bytes(problem, stages, layers) / np.maximum(layers, 1)
        whole = routed_deferred_bytes(problem, stages, stages.num_layers)
        deferred = deferred + whole / np.maximum(stages.num_layers, 1)
    return plain, boundary_bytes(problem, stages), deferred
