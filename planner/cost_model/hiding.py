"""What is left of communication over data parallelism once computation has hidden what it can."""

import numpy as np

from planner.cost_model.communication import (
    data_parallel_seconds,
    gathering_seconds,
    layer_collectives,
    reduction_seconds,
    replica_links,
    zero_gather_seconds,
)
from planner.cost_model.compute import microbatch_compute
from planner.cost_model.expert_communication import expert_gradient_seconds
from planner.cost_model.parameters import stage_parameters
from planner.cost_model.products import BACKWARD_PRODUCTS
from planner.cost_model.sources import formula
from planner.cost_model.terms import total
from planner.layouts.compilation import reduces_itself, shards_itself
from planner.layouts.layout import SHARDS_GRADIENTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns


def exposed(stages: StageColumns, seconds: Floats, hidden: Floats) -> Floats:
    """What is left of communication that can hide behind ``hidden`` seconds of computation, without a pipeline."""
    return np.where(stages.layouts.pipeline_parallel == 1, np.maximum(seconds - hidden, 0.0), seconds)


@formula("definition")
def hiding_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What reductions of gradients can hide a share of theirs behind: the backward of the layers. Units: s.

    With its collectives of tensor parallelism, where those stay inside of a node and the ranks that reduce do not:
    the ones take the links of the node, the others the network. Two thirds of them are in backward.
    """
    columns, computed = stages.layouts, microbatch_compute(problem, stages)["layers_backward"]
    if not problem.stack.overlap.behind_collectives:
        return computed
    node, tensor = problem.devices_per_node, columns.tensor_parallel
    apart = (tensor <= node) & (tensor * columns.replicas > node)
    collectives = stages.num_layers * layer_collectives(problem, stages).once
    return computed + np.where(apart, collectives * BACKWARD_PRODUCTS / (1.0 + BACKWARD_PRODUCTS), 0.0)


@formula("rajbhandari2020", "colossalai0.5.0")
def replica_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Reduction of gradients and gathering of weights that a stage waits for at the end of a step.

    Without a pipeline the reduction hides behind a share of :func:`hiding_seconds`; gathers behind nothing, unless
    the stack says otherwise. Where blocks are compiled, under ZeRO and with a pipeline,
    :func:`compiled_replica_seconds`. Units: s.
    """
    overlap = problem.stack.overlap
    gather = zero_gather_seconds(problem, stages)
    reduction = data_parallel_seconds(problem, stages) - gather
    if problem.model.experts is not None:
        of_experts, gather_of_experts = expert_gradient_seconds(problem, stages)
        gather = gather + gather_of_experts
        reduction = reduction + of_experts - gather_of_experts
    hides = (stages.layouts.zero_stage == 0) | overlap.zero_hides
    left = exposed(stages, reduction, overlap.data_parallel * hides * hiding_seconds(problem, stages))
    left = left * np.where(stages.layouts.pipeline_parallel > 1, 1.0 - overlap.data_parallel_pipeline, 1.0)
    in_pipeline = reduces_itself(problem, stages.layouts) & (stages.layouts.pipeline_parallel > 1)
    own = in_pipeline | shards_itself(problem, stages.layouts)
    if not own.any():
        return left + gather
    return np.where(own, compiled_replica_seconds(problem, stages), left + gather)


@formula("rajbhandari2020", "definition")
def compiled_replica_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """The same where gradients are reduced behind backward and weights gathered behind forward, with a pipeline too.

    Of the parameters of layers what takes longer than the stack's share of their backward in the last micro batch, or
    of their forward in the next one; ZeRO 2 reduces, and hides, with every micro batch. What is outside of the layers
    is the last to be reduced and the first to be needed, and hides behind nothing; nor do latencies, nor the reduction
    of gradients that a schedule puts off, which are complete after backward. So the sum stays affine in the layers of
    a stage. Units: s.
    """
    columns, share = stages.layouts, problem.stack.overlap.data_parallel
    computed, held = microbatch_compute(problem, stages), stage_parameters(problem, stages)
    links = replica_links(problem, stages)
    microbatches = np.where(columns.zero_stage >= SHARDS_GRADIENTS, columns.num_microbatches, 1)

    def both(parameters: Floats) -> tuple[Floats, Floats]:
        moved = reduction_seconds(problem, stages, parameters, columns.replicas, links)
        gather = gathering_seconds(problem, stages, parameters, columns.replicas, links)
        return moved - gather, gather

    nothing, layers, whole = both(np.zeros(len(stages))), both(held["layers"]), both(total(held))
    backward = computed["layers_backward"] * ~columns.schedule_is("zbv")
    hidden = (share * microbatches * backward, share * computed["layers_forward"])
    left = [
        np.maximum(of_layers - fixed - behind, 0.0) + every - of_layers + fixed
        for fixed, of_layers, every, behind in zip(nothing, layers, whole, hidden, strict=True)
    ]
    return np.asarray(left[0] + left[1])
