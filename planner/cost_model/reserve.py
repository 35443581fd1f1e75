"""Device memory beyond what is allocated: fragmentation, context, communicators, and what a plan leaves free."""

import numpy as np

from planner.cost_model.intervals import confidence_of, memory_bounds
from planner.cost_model.parameters import updated_parameters
from planner.cost_model.sources import formula
from planner.layouts.compilation import are_compiled
from planner.layouts.degrees import edge_of
from planner.layouts.layout import SHARDS_WEIGHTS, TENSOR_MODES
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, once_per_places


@formula("definition")
def communicators(problem: Problem, stages: StageColumns) -> Floats:
    """Communicators that a rank takes part in: of each axis of the layout above 1, as the stack counts them.

    1D has one axis, 2D two, 2.5D two and its depth, 3D three; an axis of one rank has none. Ranks that divide experts
    are in two: with each other, and with those that hold copies of their experts.
    """
    columns, process = stages.layouts, problem.stack.process
    edge, split = edge_of(columns), columns.tensor_parallel > 1
    axes = np.where(columns.mode_is("1d"), 1, 0) + np.where(columns.mode_is("2d", "2.5d") & (edge > 1), 2, 0)
    axes = axes + np.where(columns.mode_is("2.5d") & (columns.tensor_depth > 1), 1, 0)
    axes = axes + np.where(columns.mode_is("3d"), 3, 0)
    extra = np.array([process.tensor_parallel.get(mode, 0.0) for mode in TENSOR_MODES])[columns.tensor_mode]
    several = split | (columns.pipeline_parallel > 1) | (columns.replicas > 1)
    return (
        np.where(split, axes + extra, 0.0)
        + np.where(columns.pipeline_parallel > 1, process.pipeline, 0.0)
        + np.where(columns.replicas > 1, process.data_parallel, 0.0)
        + np.where(columns.sequence_parallel_degree > 1, 1.0, 0.0)
        + np.where(columns.expert_parallel > 1, 2.0, 0.0)
        + np.where(several, process.all_ranks, 0.0)
        + np.where(columns.zero_stage >= SHARDS_WEIGHTS, process.sharded, 0.0)
    )


@formula("definition")
@once_per_places
def device_overhead_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the driver reports beyond the allocator: the process's context and its communicators."""
    hardware, process = problem.hardware, problem.stack.process
    of_card = (process.eager_kernels and hardware.eager_context_bytes) or hardware.context_bytes
    context = of_card if process.context_bytes is None else process.context_bytes
    each = hardware.communicator_bytes if process.communicator_bytes is None else process.communicator_bytes
    return communicators(problem, stages) * float(each) + float(context)


@formula("colossalai0.5.0")
def fragmentation_share(problem: Problem, stages: StageColumns) -> Floats:
    """Share of the peak that the caching allocator reserves on top."""
    stack, in_pieces = problem.stack, stages.layouts.zero_stage >= SHARDS_WEIGHTS
    of_pieces = stack.fragmentation if stack.sharded.fragmentation is None else stack.sharded.fragmentation
    plain: Floats = np.where(in_pieces, of_pieces, stack.fragmentation).astype(np.float64)
    if stack.compiled is None or stack.compiled.fragmentation is None:
        return plain
    return np.where(are_compiled(problem, stages.layouts), stack.compiled.fragmentation, plain)


@formula("pytorch-allocator", "colossalai0.5.0")
def other_stream_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the allocator keeps in blocks of the stream that works on ZeRO 3's gradients, beside the peak.

    A rank's shards of its pieces, which forward leaves in blocks of another stream. None on one rank, which has no
    second stream, and none of what is offloaded.
    """
    columns, per_parameter = stages.layouts, problem.stack.sharded.other_stream
    several = (columns.zero_stage >= SHARDS_WEIGHTS) & (columns.replicas > 1)
    kept = updated_parameters(problem, stages) * per_parameter * (1.0 - columns.offload_optimizer)
    return np.where(several, kept, 0.0)


@formula("definition")
def memory_margin(problem: Problem, stages: StageColumns) -> Floats:
    """Share ``m`` of the predicted peak that a plan leaves on top of it: ``1 + m = (1 + f) (1 + b)``.

    ``f`` is the usual fragmentation; ``b`` what the peak does not exceed its prediction by with the probability that
    is asked for (:func:`planner.cost_model.intervals.memory_bound`).
    """
    bounds = memory_bounds(problem, stages, confidence_of(problem))
    return (1.0 + fragmentation_share(problem, stages)) * (1.0 + bounds) - 1.0


@formula("definition")
def room(problem: Problem, stages: StageColumns, peak_bytes: Floats) -> Floats:
    """What a device has for a stage, as a multiple of the peak with its fragments that is predicted."""
    given = problem.hardware.memory_bytes - device_overhead_bytes(problem, stages)
    return np.maximum(given, 0.0) / (peak_bytes * (1.0 + fragmentation_share(problem, stages)))


@formula("definition")
@once_per_places
def reserve_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Device memory that a plan leaves free.

    As the user stated it, or what it takes that a peak ``p`` with a margin, ``p (1 + m)``, and the overhead
    of the process still fit: ``overhead + (memory - overhead) m / (1 + m)``. The margin ``m`` is
    :func:`memory_margin`. The larger one where the user states both an amount and a probability.
    """
    hardware, stated = problem.hardware, np.zeros(len(stages))
    if problem.reserve is not None:
        amount = problem.reserve.num_bytes + problem.reserve.fraction * hardware.memory_bytes
        stated = np.full(len(stages), float(amount))
        if problem.confidence is None:
            return stated
    overhead, margin = device_overhead_bytes(problem, stages), memory_margin(problem, stages)
    return np.maximum(stated, overhead + np.maximum(hardware.memory_bytes - overhead, 0.0) * margin / (1.0 + margin))


@once_per_places
def usable_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the states and activations of a stage may take: the device's memory less the reserve."""
    return problem.hardware.memory_bytes - reserve_bytes(problem, stages)
