"""Time of what ranks that divide experts send each other, and of reducing gradients of experts."""

import numpy as np

from planner.cost_model.communication import LayerCollectives, gathering_seconds, reduction_seconds
from planner.cost_model.expert_shares import expert_mesh, routed_of, worked_tokens
from planner.cost_model.parameters import stage_parameters
from planner.cost_model.rings import cluster_of, ring_links, ring_seconds
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.sequences import tensor_stride
from planner.layouts.stages import Floats, StageColumns, once_per_places
from planner.layouts.topology import link_columns
from planner.specs import ELEMENT_BYTES

EXCHANGES = 2.0
"""All-to-alls of a layer each way: tokens to their experts, and back."""
AT_ONCE = 8
"""Ranks that one rank sends to at once in an all-to-all."""


@formula("lepikhin2020", "colossalai0.5.0")
@once_per_places
def expert_exchange_seconds(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """All-to-alls of one layer and micro batch over the ranks that divide experts, forward and backward. Units: s.

    Two each way of ``T k h`` elements, of which a rank keeps its own share and the fullest rank gets most; forward
    sends the counts of tokens before, and sums them up over copies. Each takes what the card says that one takes to
    start. The stack hides a share of them.
    """
    if routed_of(problem) is None or (stages.layouts.expert_parallel == 1).all():
        return np.zeros(len(stages)), np.zeros(len(stages))
    mesh = expert_mesh(problem, stages.layouts)
    bandwidth, latency = link_columns(cluster_of(problem).exchange, mesh.group_stride, mesh.group)
    size = problem.model.hidden_size * float(ELEMENT_BYTES[problem.precision])
    waves = np.ceil((mesh.group - 1) / AT_ONCE)
    each = worked_tokens(problem, stages) * size * (mesh.group - 1) / mesh.group / bandwidth + waves * latency
    each = each + float(problem.hardware.node_link.exchange_start_s)
    exposed = 1.0 - problem.stack.experts.overlap
    backward = np.where(mesh.group > 1, EXCHANGES * each * exposed, 0.0)
    counts = np.where(mesh.group > 1, waves * latency, 0.0) + _count_sums(problem, stages)
    return backward + counts, backward


def _count_sums(problem: Problem, stages: StageColumns) -> Floats:
    """All-reduce of an 8-byte count for each expert of a rank over the ranks that hold copies of it."""
    mesh, routed = expert_mesh(problem, stages.layouts), routed_of(problem)
    assert routed is not None
    summed = np.where(problem.stack.experts.sums_counts & (mesh.group > 1), mesh.copies, 1)
    bandwidth, latency = ring_links(problem, mesh.copies_stride, summed)
    return ring_seconds(8.0 * routed.count / mesh.group, summed, 2.0, bandwidth, latency)


@formula("shoeybi2019", "colossalai0.5.0")
@once_per_places
def divided_expert_seconds(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """All-reduces of experts that tensor parallelism divides, of one layer and micro batch. Units: s.

    Every expert is divided as a feed-forward part is, so that all its tokens, ``T k`` in the mean, are summed up in
    forward, and their gradients for each of the products that read them in backward.
    """
    columns, routed = stages.layouts, routed_of(problem)
    nothing = np.zeros(len(stages))
    if routed is None or not problem.stack.experts.by_tensor or (columns.tensor_parallel == 1).all():
        return nothing, nothing
    held = routed.count / columns.expert_parallel
    bandwidth, latency = ring_links(problem, tensor_stride(problem, columns), columns.tensor_parallel)
    size = worked_tokens(problem, stages) * problem.model.hidden_size * float(ELEMENT_BYTES[problem.precision])
    one = ring_seconds(size, columns.tensor_parallel, 2.0, bandwidth, latency * held)
    inner = sum(product.divided == "inner" for product in routed.products)
    outer = sum(product.divided == "outer" for product in routed.products)
    return inner * one, outer * one * (1.0 - problem.stack.overlap.tensor_parallel)


@formula("rajbhandari2020", "colossalai0.5.0", "megatron-core")
def expert_gradient_seconds(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats]:
    """Reduction of the gradients of a stage's experts over their copies once a step, and gathering of their weights.

    As those of all other parameters, over fewer ranks. Units: s.
    """
    if problem.model.experts is None:
        return np.zeros(len(stages)), np.zeros(len(stages))
    mesh, parameters = expert_mesh(problem, stages.layouts), stage_parameters(problem, stages)["experts"]
    links = ring_links(problem, mesh.copies_stride, mesh.copies)
    return (
        reduction_seconds(problem, stages, parameters, mesh.copies, links),
        gathering_seconds(problem, stages, parameters, mesh.copies, links),
    )


@formula("definition")
@once_per_places
def expert_collectives(problem: Problem, stages: StageColumns) -> LayerCollectives:
    """All communication of one layer's experts for one micro batch. Units: s."""
    forward, backward = expert_exchange_seconds(problem, stages)
    summed, summed_back = divided_expert_seconds(problem, stages)
    return LayerCollectives(forward + backward + summed + summed_back, forward + summed)
