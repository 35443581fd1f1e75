"""Memory of the node's host and its NVMe: what the ranks of a node keep there."""

import numpy as np

from planner.cost_model.chunks import pieces, pinned_ratio
from planner.cost_model.parameters import updated_parameters, weight_shards
from planner.cost_model.sources import formula
from planner.layouts.layout import OFFLOAD_TIERS, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, StageColumns

RESIDENT_TENSORS = 2
"""Tensors whose moments are in host memory while the others are on NVMe: one updates, the next is read."""


def _on_nvme(stages: StageColumns) -> Booleans:
    return np.asarray(stages.layouts.offload_tier == OFFLOAD_TIERS.index("nvme"))


@formula("rajbhandari2020", "colossalai0.5.0")
def nvme_bytes_per_rank(problem: Problem, stages: StageColumns) -> Floats:
    """Optimizer moments of the offloaded share that one rank keeps on its node's NVMe."""
    moments = problem.stack.state_bytes(problem.precision).moments
    offloaded = updated_parameters(problem, stages) * stages.layouts.offload_optimizer * moments
    return np.where(_on_nvme(stages), offloaded, 0.0)


@formula("colossalai0.5.0")
def resident_moment_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Moments in host memory: all that are offloaded, or those of two tensors if the rest is on NVMe."""
    moments = problem.stack.state_bytes(problem.precision).moments
    offloaded = updated_parameters(problem, stages) * stages.layouts.offload_optimizer
    shards = np.where(stages.layouts.zero_stage >= SHARDS_WEIGHTS, weight_shards(problem, stages), 1.0)
    shards = np.where(stages.layouts.zero_stage < SHARDS_WEIGHTS, stages.layouts.replicas, shards)
    window = np.minimum(offloaded, RESIDENT_TENSORS * pieces(problem).largest / shards)
    return moments * np.where(_on_nvme(stages), window, offloaded)


@formula("colossalai0.5.0")
def pinned_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Page-locked host copies of a rank's pieces under ZeRO 3, which stay whatever is offloaded.

    Pieces of weights, again of gradients where micro batches add up, and of master weights; PyTorch
    rounds each block up to a power of two.
    """
    columns, sharded, plan = stages.layouts, problem.stack.sharded, pieces(problem)
    in_pieces = (columns.zero_stage >= SHARDS_WEIGHTS) & plan.is_sharded
    sums_up = (columns.num_microbatches > 1) | (not sharded.gradients_reuse_weights)
    copies = np.where(sums_up, 2.0, 1.0)
    shard = plan.layer / weight_shards(problem, stages)
    per_parameter = copies * sharded.pinned_weight * _ratios(problem, shard * sharded.pinned_weight)
    per_parameter += sharded.pinned_master * _ratios(problem, shard * sharded.pinned_master)
    return np.where(in_pieces, updated_parameters(problem, stages) * per_parameter, 0.0)


def _ratios(problem: Problem, piece_bytes: Floats) -> Floats:
    sizes, inverse = np.unique(piece_bytes, return_inverse=True)
    ratios = np.array([pinned_ratio(problem.stack.sharded, float(size)) for size in sizes])
    return ratios[inverse.ravel()]


@formula("rajbhandari2020", "colossalai0.5.0")
def host_bytes_per_rank(problem: Problem, stages: StageColumns) -> Floats:
    """What one rank takes of its node's memory: its process, offloaded states and pinned copies.

    Offloaded states below ZeRO 3: master weights, moments and the gradients that update them. Under
    ZeRO 3 the same without what the pinned copies already are, and offloaded weights.
    """
    columns, sharded = stages.layouts, problem.stack.sharded
    per_parameter = problem.stack.state_bytes(problem.precision)
    updated = updated_parameters(problem, stages)
    flat = (per_parameter.master + per_parameter.zero_step_gradient) * columns.offload_optimizer
    master = max(per_parameter.master - sharded.pinned_master, 0.0)
    gradient = max(per_parameter.gradient - sharded.pinned_weight, 0.0)
    weight = max(per_parameter.weight - sharded.pinned_weight, 0.0)
    in_pieces = (master + gradient) * columns.offload_optimizer + weight * columns.offload_parameters
    states = updated * np.where(columns.zero_stage >= SHARDS_WEIGHTS, in_pieces, flat)
    process = float(problem.hardware.host.process_bytes)
    return process + states + resident_moment_bytes(problem, stages) + pinned_bytes(problem, stages)
