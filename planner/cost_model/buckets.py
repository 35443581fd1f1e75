"""DDP's buckets of gradients: how many a stage fills, and what they take beside their bytes."""

import numpy as np

from planner.cost_model.parts import block
from planner.cost_model.shares import shares
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns
from planner.specs import ELEMENT_BYTES


@formula("pytorch-ddp")
def gradient_buckets(problem: Problem, stages: StageColumns) -> Floats:
    """Buckets in which DDP reduces the gradients of a stage, on average; none where the stack states no size of them.

    A bucket takes tensors until it is full, so that it holds half a matrix more, a mean one by bytes. The embedding and
    the head fill one each.
    """
    cap, matrix = float(problem.stack.ddp_bucket_cap_bytes), shares(stages.layouts).matrix
    if not cap:
        return np.zeros(len(stages))
    element = float(ELEMENT_BYTES[problem.precision])
    sizes = [element * product.inner * product.outer for product in block(problem).products]
    held = cap + sum(size * size for size in sizes) / sum(sizes) * matrix / 2.0
    return stages.num_layers * sum(sizes) * matrix / held + stages.is_first + stages.is_last


@formula("thakur2005", "pytorch-ddp")
def bucket_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What the all-reduces of DDP's buckets take beside their bytes, without ZeRO.

    Each has the steps of a ring inside nodes, ``2 (n - 1)``. Units: s.
    """
    columns = stages.layouts
    steps = 2.0 * (columns.replicas - 1) * float(problem.hardware.node_link.latency_s)
    return np.where(columns.zero_stage == 0, gradient_buckets(problem, stages) * steps, 0.0)
