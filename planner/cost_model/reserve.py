"""Device memory beyond what is allocated: fragmentation, context, communicators, and what a plan leaves free."""

import numpy as np

from planner.cost_model.sources import formula
from planner.problem import Problem
from planner.rules.states import SHARDS_WEIGHTS
from planner.stages import Floats, StageColumns


@formula("definition")
def device_overhead_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the driver reports beyond the allocator: context, and communicators of each axis above 1."""
    hardware, columns = problem.hardware, stages.layouts
    degrees = (columns.tensor_parallel, columns.pipeline_parallel, columns.data_parallel)
    axes: Floats = np.sum([degree > 1 for degree in degrees], axis=0, dtype=np.float64)
    return axes * float(hardware.communicator_bytes) + hardware.context_bytes


@formula("colossalai0.5.0")
def fragmentation_share(problem: Problem, stages: StageColumns) -> Floats:
    """Share of the peak that the caching allocator reserves on top."""
    stack, in_pieces = problem.stack, stages.layouts.zero_stage >= SHARDS_WEIGHTS
    of_pieces = stack.fragmentation if stack.sharded.fragmentation is None else stack.sharded.fragmentation
    return np.where(in_pieces, of_pieces, stack.fragmentation).astype(np.float64)


@formula("definition")
def reserve_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Device memory that a plan leaves free.

    As the user stated it, or: the driver's context, the communicators of each axis of the layout
    (TP, PP and DP above 1), and the share that the caching allocator reserves beyond what is
    allocated.
    """
    hardware = problem.hardware
    if problem.reserve is not None:
        amount = problem.reserve.num_bytes + problem.reserve.fraction * hardware.memory_bytes
        return np.full(len(stages), float(amount))
    return device_overhead_bytes(problem, stages) + problem.stack.fragmentation * hardware.memory_bytes


def usable_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the states and activations of a stage may take: the device's memory less the reserve."""
    return problem.hardware.memory_bytes - reserve_bytes(problem, stages)
