"""What hosts wait before collectives, where a job has them meet before each: by ranks of the group, not by bytes."""

import numpy as np

from planner.cost_model.buckets import gradient_buckets
from planner.cost_model.parts import block
from planner.cost_model.rings import axis_strides
from planner.cost_model.sources import formula
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns

LOSS_COLLECTIVES = 3
"""All-reduces of the loss over a divided vocabulary: of the maximum, the label's logit and the sum."""


@formula("pytorch-checks")
def layer_check_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What a host waits before the collectives of one layer, forward and backward, over its tensor-parallel group.

    As many as :func:`planner.cost_model.communication.layer_collectives` counts: an all-reduce for each product that
    tensor parallelism divides; with sequence parallelism a gather and a scatter of each in forward, and in backward
    a gather of each, again of those whose input was gathered, and their scatters. Units: s.
    """
    columns, own = stages.layouts, block(problem)
    inner, outer = own.divided("inner"), own.gathered_inputs
    again = outer * (problem.stack.activations.gathered_elements == 0)
    in_slices = (inner + outer) + (inner + again + outer)
    count = np.where(columns.sequence_parallel == 1, in_slices, inner + own.divided("outer"))
    return count * _each(problem, columns.tensor_parallel, np.ones_like(columns.tensor_parallel))


@formula("pytorch-checks")
def end_check_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The same for one micro batch in the embedding, forward and backward, and in the head and the loss. Units: s."""
    ends = 2.0 * stages.is_first + (2.0 + LOSS_COLLECTIVES) * stages.is_last
    columns = stages.layouts
    return ends * _each(problem, columns.tensor_parallel, np.ones_like(columns.tensor_parallel))


@formula("pytorch-checks")
def reduction_check_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The same over data-parallel ranks once a step: reductions of gradients, the gather of weights and the mean loss.

    Without ZeRO one for each bucket, else one for all gradients and one for the weights. Units: s.
    """
    columns, stride = stages.layouts, axis_strides(problem, stages)[0]
    plain = np.maximum(gradient_buckets(problem, stages), 1.0)
    count = 1.0 + np.where(columns.zero_stage == 0, plain, 2.0)
    return np.where(columns.zero_stage < SHARDS_WEIGHTS, count * _each(problem, columns.replicas, stride), 0.0)


def _each(problem: Problem, ranks: Integers, stride: Integers) -> Floats:
    """Wait before one collective of ranks that far apart: those on the node of the first, and those on others."""
    traffic = problem.stack.traffic
    near = np.minimum(ranks, np.maximum(problem.devices_per_node // stride, 1))
    waits = near * float(traffic.collective_rank_host_s) + (ranks - near) * float(traffic.collective_far_rank_host_s)
    return np.where(ranks > 1, waits, 0.0)
