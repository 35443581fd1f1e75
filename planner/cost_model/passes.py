"""What of a micro batch is forward on each stage, and what backward."""

from typing import NamedTuple

import numpy as np

from planner.cost_model import communication, compute
from planner.cost_model.grid_communication import grid_collectives
from planner.cost_model.pipeline import StageTimes
from planner.cost_model.products import BACKWARD_PRODUCTS, Passes
from planner.cost_model.sources import formula
from planner.cost_model.terms import total
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns

STEADY = 1e-9
"""Relative difference below which two rounds of a schedule take the same time."""
EMBEDDING_FORWARD = 3.0 / 8.0
"""Of the hidden states that the embedding moves, those of forward: :func:`compute.embedding_seconds`."""


class PassTimes(NamedTuple):
    """Times of one micro batch on each stage, all of its chunks together, in seconds."""

    forward_s: Floats
    backward_s: Floats
    """With what is recomputed."""
    send_s: Floats
    """One blocking send of a chunk's hidden state or gradient."""


@formula("narayanan2021")
def pass_times(problem: Problem, stages: StageColumns, times: StageTimes) -> PassTimes:
    """Forward and backward of each stage, which with its sends add up to its time of a micro batch.

    What computation and collectives take is divided as their formulas have it; host waits as the host's time of
    the layers; gathered weights evenly. Backward is the rest. Units: s.
    """
    computed = compute.microbatch_compute(problem, stages)
    line, grid = communication.layer_collectives(problem, stages), grid_collectives(problem, stages)
    parts, columns = times.microbatch, stages.layouts
    embedding, head = (end.forward for end in end_passes(problem, stages))
    share = float(problem.stack.traffic.forward_host_share)
    passes = stages.num_layers + share * stages.recompute_layers
    reductions = stages.num_layers * (line.recomputed + grid.recomputed)
    forward = (
        computed["layers_forward"]
        + embedding
        + head
        + parts["host"] * share * stages.num_layers / np.maximum(passes, 1.0)
        + np.minimum(reductions, parts["tensor_parallel_communication"])
        + parts["weight_gathering"] / 2.0
    )
    sends = _sends(stages)
    message = np.divide(parts["pipeline_communication"], sends, out=np.zeros(len(stages)), where=sends > 0)
    backward = total(parts) - parts["pipeline_communication"] - forward
    return PassTimes(forward, np.maximum(backward, 0.0), np.where(columns.pipeline_parallel > 1, message, 0.0))


@formula("definition")
def end_passes(problem: Problem, stages: StageColumns) -> tuple[Passes, Passes]:
    """What of a micro batch the embedding computes on the first stage, and the norm, head and loss on the last."""
    computed = compute.microbatch_compute(problem, stages)
    embedding, whole = computed["embedding"], computed["loss_head"]
    loss = np.where(stages.is_last, compute.loss_seconds(problem, stages), 0.0)
    head = (whole - loss) / (1.0 + BACKWARD_PRODUCTS) + loss / 2.0
    looked_up = EMBEDDING_FORWARD * embedding
    return Passes(looked_up, embedding - looked_up), Passes(head, whole - head)


def _sends(stages: StageColumns) -> Floats:
    """Sends of one micro batch that :func:`communication.pipeline_seconds` counts."""
    columns = stages.layouts
    ends = stages.is_first.astype(np.float64) + stages.is_last
    return np.where(columns.num_model_chunks > 1, 2.0 * columns.num_model_chunks, np.maximum(2.0 - ends, 0.0))
