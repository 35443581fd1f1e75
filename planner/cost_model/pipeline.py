"""The step: how micro batches fill the pipeline and what follows after the last one."""

from typing import NamedTuple

import numpy as np

from planner.cost_model import checks, communication, compute, update
from planner.cost_model.expert_communication import expert_collectives
from planner.cost_model.grid_communication import grid_collectives, grid_gradient_seconds, grid_seconds
from planner.cost_model.hiding import exposed, replica_seconds
from planner.cost_model.products import BACKWARD_PRODUCTS
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns, once_per_stages


class StageTimes(NamedTuple):
    """Times of stages, in seconds, as named terms."""

    microbatch: Terms
    """One micro batch through the stage, forward and backward."""
    tail: Terms
    """What the stage does once a step, after its last micro batch."""


@formula("narayanan2021")
@once_per_stages
def stage_times(problem: Problem, stages: StageColumns) -> StageTimes:
    """Time of one micro batch and of the end of the step, for each stage.

    Both are affine in the layers and recomputed layers of the stage, unless communication hides behind
    computation, which that of data parallelism and ZeRO does, and not behind recomputation: with a pipeline layer by
    layer, :func:`planner.cost_model.hiding.replica_seconds`. Grids reduce their gradients after the last backward.
    Units: s.
    """
    computed = compute.microbatch_compute(problem, stages)
    tensor = communication.tensor_parallel_seconds(problem, stages)
    overlap, gathering = problem.stack.overlap, communication.sharded_seconds(problem, stages)
    layers = computed["layers_forward"] + computed["layers_backward"]
    microbatch = {
        "forward_backward": layers,
        "recompute": computed["recompute"],
        "gradient_accumulation": update.accumulation_seconds(problem, stages),
        "host": host_seconds(problem, stages),
        "embedding": computed["embedding"],
        "loss_head": computed["loss_head"],
        "tensor_parallel_communication": total(tensor)
        + total(grid_seconds(problem, stages))
        + checks.end_check_seconds(problem, stages),
        "pipeline_communication": communication.pipeline_seconds(problem, stages),
        "weight_gathering": exposed(stages, gathering, overlap.sharded * layers)
        + update.gather_copy_seconds(problem, stages),
    }
    if problem.model.experts is not None:
        between = expert_collectives(problem, stages)
        microbatch["expert_communication"] = (
            stages.num_layers * between.once + stages.recompute_layers * between.recomputed
        )
    tail = {
        "data_parallel_communication": _grid_or(problem, stages, replica_seconds(problem, stages))
        + checks.reduction_check_seconds(problem, stages),
        "optimizer": update.optimizer_seconds(problem, stages),
        "offload": update.offload_seconds(problem, stages),
    }
    return StageTimes(microbatch=microbatch, tail=tail)


@formula("definition")
def host_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What the device waits for the host in the layers of one micro batch. Units: s.

    The host runs ahead of the device and of communication. In a pipeline it waits for every message that it
    receives, and a layer takes what the longer of the two takes for its forward and backward, and forward's share once
    more where it recomputes. Where it reads a result of the device before each forward pass it begins that with
    nothing ahead, and what its forward takes longer than the device's is waited for in any case. Without a pipeline
    it waits for nothing: a micro batch takes the longer of the two as a whole, with the embedding, the loss head and
    the additions of gradients on the device. Where the host waits for every kernel, neither hides the other.
    """
    layer, share = compute.layer_seconds(problem, stages), float(problem.stack.traffic.forward_host_share)
    host = (1.0 + BACKWARD_PRODUCTS) * compute.layer_host_seconds(problem, stages)
    if problem.stack.traffic.blocking_launches:
        return host * (stages.num_layers + share * stages.recompute_layers)
    line, grid = communication.layer_collectives(problem, stages), grid_collectives(problem, stages)
    once, recomputed = line.once + grid.once, line.recomputed + grid.recomputed
    if problem.model.experts is not None:
        between = expert_collectives(problem, stages)
        once, recomputed = once + between.once, recomputed + between.recomputed
    plain = host - layer.forward - layer.backward - once
    recomputing = plain + share * host - compute.recomputed_layer_seconds(problem, stages) - recomputed
    waits = problem.stack.traffic.forward_waits & (stages.layouts.pipeline_parallel > 1)
    behind = np.where(waits, share * host - layer.forward - once / (1.0 + BACKWARD_PRODUCTS), 0.0)
    least = np.maximum(behind, 0.0)
    whole = stages.num_layers - stages.recompute_layers
    each = np.multiply(whole, np.maximum(plain, least), dtype=np.float64)
    each = each + stages.recompute_layers * np.maximum(recomputing, least)
    outside, alone = float(problem.stack.traffic.outside_host_s), stages.layouts.pipeline_parallel == 1
    if not outside or not alone.any():
        return each
    at_once = whole * plain + stages.recompute_layers * recomputing + outside - outside_layers_seconds(problem, stages)
    return np.where(alone, np.maximum(at_once, 0.0), each)


@formula("definition")
def outside_layers_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What the device computes in one micro batch outside of the layers. Units: s."""
    computed = compute.microbatch_compute(problem, stages)
    return computed["embedding"] + computed["loss_head"] + update.accumulation_seconds(problem, stages)


def _grid_or(problem: Problem, stages: StageColumns, seconds: Floats) -> Floats:
    """Gradient reduction: a grid's own where there is one, else the given."""
    in_grid = stages.layouts.mode_is("2d", "2.5d", "3d")
    return np.where(in_grid, grid_gradient_seconds(problem, stages), seconds) if in_grid.any() else seconds


@formula("narayanan2021")
def pipeline_bubble(time_sum: Floats | Integers, slowest: Floats | Integers, num_chunks: Integers) -> Floats:
    """Fill and drain of the pipeline beyond the slowest stage's own work: ``(sum t_s - max t_s) / v``.

    ``t_s`` is the time of one micro batch on stage ``s``. With it, ``M`` micro batches take
    ``M max t_s`` plus the bubble under 1F1B (``v = 1``); ``v`` interleaved chunks divide fill and
    drain by ``v``. Exact where stages are equal; with unequal ones an upper bound as long as backward
    takes the same multiple of forward on each. In the unit of the given times.
    """
    return (time_sum - slowest) / num_chunks
