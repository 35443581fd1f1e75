"""Peak device memory of each stage: named terms for each phase of a step, and their maximum."""

from typing import NamedTuple

import numpy as np

from planner.cost_model import activations
from planner.cost_model.parameters import (
    SHARDS_GRADIENTS,
    SHARDS_OPTIMIZER,
    stage_parameters,
    updated_parameters,
)
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, at_row, total
from planner.prediction import StagePrediction
from planner.problem import Problem
from planner.spec import ELEMENT_BYTES
from planner.stages import Floats, StageColumns, microbatch_tokens

PHASES = ("forward", "backward", "optimizer")


class StageMemory(NamedTuple):
    """Memory of stages: for each phase of :data:`PHASES` its named terms, in bytes."""

    phases: dict[str, Terms]

    def peak_bytes(self) -> Floats:
        """The largest phase total of each stage."""
        return np.max([total(terms) for terms in self.phases.values()], axis=0)


@formula("rajbhandari2020", "colossalai0.5.0")
def state_bytes(problem: Problem, stages: StageColumns) -> Terms:
    """Weights, gradients, master weights and optimizer moments that one rank keeps on its device.

    Bytes per parameter come from the stack. ZeRO 1 divides master weights and moments by the
    data-parallel degree, ZeRO 2 the gradients as well; an offloaded share of the optimizer leaves.
    """
    columns = stages.layouts
    per_parameter = problem.stack.state_bytes(problem.precision)
    parameters = total(stage_parameters(problem, stages))
    gradient_shards = np.where(columns.zero_stage >= SHARDS_GRADIENTS, columns.data_parallel, 1)
    updated = updated_parameters(problem, stages)
    on_device = 1.0 - columns.offload_optimizer
    return {
        "weights": parameters * per_parameter.weight,
        "gradients": parameters * per_parameter.gradient / gradient_shards,
        "master_weights": updated * per_parameter.master * on_device,
        "optimizer_moments": updated * per_parameter.moments * on_device,
    }


@formula("colossalai0.5.0")
def bucket_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Communication buckets alive in backward.

    Without a pipeline, and without ZeRO or on a single data-parallel rank, torch DDP's gradient
    buckets (a copy of the gradients). With ZeRO two reduce buckets: the flattened gradients and the
    copy in flight, no larger than the gradients.
    """
    columns, stack = stages.layouts, problem.stack
    parameters = total(stage_parameters(problem, stages))
    ddp = parameters * stack.state_bytes(problem.precision).ddp_bucket
    zero = 2.0 * np.minimum(float(stack.zero_bucket_bytes), parameters * ELEMENT_BYTES[problem.precision])
    wrapped = (columns.pipeline_parallel == 1) & ((columns.zero_stage == 0) | (columns.data_parallel == 1))
    return np.where(wrapped, ddp, 0.0) + np.where(columns.zero_stage >= SHARDS_OPTIMIZER, zero, 0.0)


@formula("colossalai0.5.0")
def step_gradient_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Full-precision gradients of the optimizer step, beyond what the gradients already take.

    Of all local parameters without ZeRO, of the local shard with it. ``offload`` does not change it:
    the gradient is cast on the device before it leaves.
    """
    per_parameter = problem.stack.state_bytes(problem.precision)
    sharded = stages.layouts.zero_stage >= SHARDS_OPTIMIZER
    growth = np.where(sharded, per_parameter.zero_step_gradient, per_parameter.step_gradient)
    return updated_parameters(problem, stages) * growth


@formula("colossalai0.5.0")
def gather_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Buffer of the parameter all-gather after a ZeRO step: a bucket per rank, at most all weights."""
    columns, stack = stages.layouts, problem.stack
    weights = total(stage_parameters(problem, stages)) * ELEMENT_BYTES[problem.precision]
    gathered: Floats = np.minimum(columns.data_parallel * float(stack.zero_bucket_bytes), weights)
    return np.where((columns.zero_stage >= SHARDS_OPTIMIZER) & (columns.data_parallel > 1), gathered, 0.0)


@formula("definition")
def batch_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Token ids, labels and mask of the rank's whole batch: three 8-byte integers a token."""
    return microbatch_tokens(problem, stages.layouts) * stages.layouts.num_microbatches * 24.0


@formula("colossalai0.5.0", "korthikanti2022")
def stage_memory(problem: Problem, stages: StageColumns) -> StageMemory:
    """Named terms of every phase, in bytes per rank.

    Forward: states, activations, logits; gradients exist only once a micro batch went backward.
    Backward: states, gradients, the activations at its start and the layer being recomputed; it
    counts them together, although the last gradients appear when the activations have gone.
    Optimizer: states, gradients and their full-precision copy or the gather buffer.
    """
    states = state_bytes(problem, stages)
    held = {name: states[name] for name in ("weights", "master_weights", "optimizer_moments")}
    held["batch"] = batch_bytes(problem, stages)
    buckets = bucket_bytes(problem, stages)
    kept = {
        "activations": activations.kept_bytes(problem, stages),
        "embedding_and_final_norm": activations.ends_bytes(problem, stages),
        "pipeline_buffers": activations.pipeline_buffer_bytes(problem, stages),
    }
    accumulated = np.where(stages.layouts.num_microbatches > 1, states["gradients"], 0.0)
    working = activations.recompute_working_bytes(problem, stages)
    step = np.maximum(step_gradient_bytes(problem, stages), gather_bytes(problem, stages))
    return StageMemory(
        {
            "forward": {
                **held, **kept, "gradients": accumulated, "logits": activations.logits_bytes(problem, stages),
                "communication_buckets": buckets,
            },
            "backward": {
                **held, **kept, "gradients": states["gradients"], "recomputed_layer": working,
                "communication_buckets": buckets,
            },
            "optimizer": {
                **held, "gradients": states["gradients"], "step_temporaries": step,
                "communication_buckets": np.where(stages.layouts.zero_stage >= SHARDS_OPTIMIZER, 0.0, buckets),
            },
        }
    )  # fmt: skip


@formula("rajbhandari2020")
def host_bytes_per_rank(problem: Problem, stages: StageColumns) -> Floats:
    """Offloaded master weights, moments and the gradients that update them, on the host."""
    columns, per_parameter = stages.layouts, problem.stack.state_bytes(problem.precision)
    shard = total(stage_parameters(problem, stages)) / np.where(
        columns.zero_stage >= SHARDS_OPTIMIZER, columns.data_parallel, 1
    )
    states = per_parameter.master + per_parameter.moments + per_parameter.zero_step_gradient
    return shard * states * columns.offload_optimizer


@formula("definition")
def reserve_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Device memory that a plan leaves free.

    As the user stated it, or: the driver's context, the communicators of each axis of the layout
    (TP, PP and DP above 1), and the share that the caching allocator reserves beyond what is
    allocated.
    """
    hardware, columns = problem.hardware, stages.layouts
    if problem.reserve is not None:
        amount = problem.reserve.num_bytes + problem.reserve.fraction * hardware.memory_bytes
        return np.full(len(stages), float(amount))
    degrees = (columns.tensor_parallel, columns.pipeline_parallel, columns.data_parallel)
    axes: Floats = np.sum([degree > 1 for degree in degrees], axis=0, dtype=np.float64)
    return (
        axes * float(hardware.communicator_bytes)
        + hardware.context_bytes
        + problem.stack.fragmentation * hardware.memory_bytes
    )


def usable_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the states and activations of a stage may take: the device's memory less the reserve."""
    return problem.hardware.memory_bytes - reserve_bytes(problem, stages)


def predicted_stages(problem: Problem, stages: StageColumns) -> tuple[StagePrediction, ...]:
    """Peak, phase and breakdown of every stage, in whole bytes."""
    memory = stage_memory(problem, stages)
    totals = np.array([total(terms) for terms in memory.phases.values()])
    reserve = reserve_bytes(problem, stages)
    predictions = []
    for row in range(len(stages)):
        phase = PHASES[int(totals[:, row].argmax())]
        terms = {name: round(value) for name, value in at_row(memory.phases[phase], row).items()}
        predictions.append(
            StagePrediction(
                peak_bytes=sum(terms.values()),
                peak_phase=phase,
                breakdown_bytes=terms,
                capacity_bytes=int(problem.hardware.memory_bytes),
                reserve_bytes=round(reserve[row]),
            )
        )
    return tuple(predictions)
