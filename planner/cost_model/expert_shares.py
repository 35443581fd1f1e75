"""Experts of a layer on ranks: who holds them, who holds copies, what they keep and take."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.imbalance import JUDGED, MEAN, fullest_tokens
from planner.cost_model.parts import block
from planner.cost_model.parts.part import Routed
from planner.cost_model.shares import rank_tokens
from planner.cost_model.sources import formula
from planner.layouts.degrees import expert_ranks
from planner.layouts.layout import LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns, once_per_places
from planner.specs import ELEMENT_BYTES


class ExpertMesh(NamedTuple):
    """Ranks of a stage as a grid for its experts, one number a layout."""

    group: Integers
    """Ranks that divide the experts among them."""
    group_stride: Integers
    """Distance of neighbours in the group, in ranks."""
    copies: Integers
    """Ranks that hold the same experts, or the same parts of them."""
    copies_stride: Integers
    parts: Integers
    """Parts that tensor parallelism cuts every expert into."""


@formula("megatron-core", "colossalai0.5.0")
def expert_mesh(problem: Problem, columns: LayoutColumns) -> ExpertMesh:
    """Where experts are: in Colossal-AI ``moe_dp x pp x ep x tp``, in Megatron ``pp x moe_dp x ep``, the last fastest.

    ``ep moe_dp`` ranks divide the experts or copy them: those of data parallelism, and those of tensor parallelism
    where it leaves every expert whole.
    """
    tensor, group = columns.tensor_parallel, columns.expert_parallel
    by_tensor = problem.stack.experts.by_tensor
    inner = tensor if by_tensor else np.ones_like(tensor)
    ranks = expert_ranks(problem.stack, tensor, columns.replicas)
    inside = inner * (columns.sequence_parallel_degree if by_tensor else 1)
    between = 1 if problem.stack.rank_order == "pipeline-data-tensor" else columns.pipeline_parallel
    return ExpertMesh(
        group=group,
        group_stride=inside,
        copies=np.maximum(ranks // group, 1),
        copies_stride=inside * group * between,
        parts=inner,
    )


def routed_of(problem: Problem) -> Routed | None:
    """The experts of a layer as the stack makes them; ``None``: the model has none."""
    return block(problem).routed if problem.model.experts is not None else None


def expert_layers(problem: Problem, stages: StageColumns) -> Integers:
    """Layers of each stage that have experts: all but the first ones of the model, which are on the first stage."""
    dense = problem.model.dense_layers
    return np.where(stages.is_first, np.maximum(stages.num_layers - dense, 0), stages.num_layers)


@formula("lepikhin2020", "colossalai0.5.0", "megatron-core")
def expert_parameters(problem: Problem, stages: StageColumns) -> Floats:
    """Parameters of experts that one rank of each stage holds: ``E / (ep t)`` of every layer that has them."""
    routed, mesh = routed_of(problem), expert_mesh(problem, stages.layouts)
    if routed is None:
        return np.zeros(len(stages))
    each = float(routed.count * routed.parameters)
    return expert_layers(problem, stages) * each / (mesh.group * mesh.parts)


@formula("lepikhin2020", "colossalai0.5.0", "megatron-core")
@once_per_places
def sent_tokens(problem: Problem, stages: StageColumns) -> Floats:
    """Tokens that a rank sends to experts of a layer, once for each of its experts: ``T k``, of its own slice.

    Where tensor parallelism divides experts, all ranks of its group send the same tokens. Nobody drops any.
    """
    routed, columns = routed_of(problem), stages.layouts
    if routed is None:
        return np.zeros(len(stages))
    sliced = (columns.sequence_parallel == 1) & (not problem.stack.experts.by_tensor)
    return rank_tokens(problem, stages) * routed.top_k / np.where(sliced, columns.tensor_parallel, 1)


@once_per_places
def worked_tokens(problem: Problem, stages: StageColumns) -> Floats:
    """Tokens that the fullest rank of an expert group works on in the mean over layers and micro batches."""
    return fullest_tokens(problem, stages.layouts, sent_tokens(problem, stages), MEAN)


@formula("colossalai0.5.0", "megatron-core", "wang2024")
def routed_kept_bytes(problem: Problem, stages: StageColumns, layers: Integers | float) -> Floats:
    """What experts keep of one micro batch in so many layers, on the rank with most tokens.

    Per token and expert of it the inner states of an expert, divided as it is, and whole hidden units: its input, as
    sorted, and its output, which its weight is multiplied with.
    """
    routed, mesh = routed_of(problem), expert_mesh(problem, stages.layouts)
    if routed is None:
        return np.zeros(len(stages))
    whole = problem.stack.experts.dispatch_kept * problem.model.hidden_size
    each = (whole + routed.kept / mesh.parts) * ELEMENT_BYTES[problem.precision]
    sent = sent_tokens(problem, stages)
    return layers * each * fullest_tokens(problem, stages.layouts, sent, JUDGED, layers)


@formula("colossalai0.5.0", "megatron-core", "wang2024")
@once_per_places
def routed_working_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Gradients at the peak of the experts' backward in one layer, and what sorting them takes, on the fullest rank."""
    routed, mesh = routed_of(problem), expert_mesh(problem, stages.layouts)
    if routed is None:
        return np.zeros(len(stages))
    whole = problem.stack.experts.dispatch_working * problem.model.hidden_size
    each = (whole + routed.working / mesh.parts) * ELEMENT_BYTES[problem.precision]
    return each * fullest_tokens(problem, stages.layouts, sent_tokens(problem, stages), JUDGED)
