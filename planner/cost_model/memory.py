"""Peak device memory of each stage: named terms for each phase of a step, and their maximum."""

from typing import NamedTuple

import numpy as np

from planner.cost_model import activations
from planner.cost_model.errors import KINDS, kind_columns
from planner.cost_model.held import held_bytes, largest_tensor_bytes
from planner.cost_model.imbalance import judged_probability
from planner.cost_model.intervals import fits_probabilities
from planner.cost_model.parameters import stage_parameters
from planner.cost_model.reserve import device_overhead_bytes, fragmentation_share, reserve_bytes, room
from planner.cost_model.sources import formula
from planner.cost_model.states import (
    all_slices_bytes,
    bucket_bytes,
    cast_bytes,
    gathered_bytes,
    slice_bytes,
    state_bytes,
    step_buffers,
    step_bytes,
)
from planner.cost_model.terms import Terms, at_row, total
from planner.cost_model.v_memory import kept_in_phases
from planner.layouts.layout import SHARDS_OPTIMIZER
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, microbatch_tokens, once_per_places
from planner.plans.prediction import StagePrediction

FLAT_TERMS = ("step_temporaries", "gradient_cast")
"""Terms of the flat buffers of an optimizer step."""
PHASES = ("forward", "backward", "end_of_backward", "optimizer")


class StageMemory(NamedTuple):
    """Memory of stages: for each phase of :data:`PHASES` its named terms, in bytes."""

    phases: dict[str, Terms]

    def peak_bytes(self) -> Floats:
        """The largest phase total of each stage."""
        peak, *others = (total(terms) for terms in self.phases.values())
        for other in others:
            np.maximum(peak, other, out=peak)
        return peak


@formula("definition")
@once_per_places
def batch_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Token ids, labels and mask of the rank's whole batch: three 8-byte integers a token."""
    return microbatch_tokens(problem, stages.layouts) * stages.layouts.num_microbatches * 24.0


@formula("colossalai0.5.0", "korthikanti2022")
def stage_memory(problem: Problem, stages: StageColumns) -> StageMemory:
    """Named terms of every phase, in bytes per rank.

    Forward: states, activations, logits; gradients exist only once a micro batch went backward, or where
    the stack has buffers for them. Buckets of ZeRO are for backward, those of DDP stay.
    Backward: the same at its start, where the last layer recomputes and has gradients of its activations.
    End of backward: all gradients, and the activations of the first layer for one micro batch.
    Optimizer: states, gradients and their full-precision copy or the gather buffer.
    """
    states = state_bytes(problem, stages)
    held = {name: states[name] for name in ("weights", "master_weights", "optimizer_moments")}
    held["batch"] = batch_bytes(problem, stages)
    held["attention_masks"] = activations.mask_bytes(problem, stages)
    held["workspaces"] = np.full(len(stages), workspace_bytes(problem))
    held["gather_buffers"] = activations.gather_buffer_bytes(problem, stages)
    buckets = bucket_bytes(problem, stages)
    gathered = gathered_bytes(problem, stages)
    in_forward_kept, in_backward_kept = kept_in_phases(problem, stages)
    kept = {
        "activations": in_forward_kept,
        "embedding_and_final_norm": activations.ends_bytes(problem, stages),
        "pipeline_buffers": activations.pipeline_buffer_bytes(problem, stages),
    }
    accumulated = np.where(
        stages.layouts.num_microbatches > 1, states["gradients"], buffered_gradients(problem, stages)
    )
    late, ended = activations.outliving_bytes(problem, stages)
    of_zero = stages.layouts.zero_stage >= SHARDS_OPTIMIZER
    in_forward = np.where(of_zero, 0.0, buckets)
    head_gradient = np.maximum(accumulated, head_gradient_bytes(problem, stages, states["gradients"]))
    layer_buffer, head_buffer = activations.summa_buffer_bytes(problem, stages)
    working = activations.layer_backward_bytes(problem, stages) + layer_buffer
    logits, step = activations.logits_bytes(problem, stages), step_bytes(problem, stages)
    first_layer = activations.first_layer_bytes(problem, stages) + ended
    forward = held | kept | {"gradients": accumulated, "logits": logits, "inputs_of_the_micro_batch_before": late}
    forward |= {"communication_buckets": in_forward, "gathered_weights": gathered["head"]}
    forward |= {"product_buffers": head_buffer}
    backward = held | kept | {"activations": in_backward_kept}
    backward |= {"gradients": head_gradient, "layer_in_backward": working}
    backward |= {"communication_buckets": buckets, "gathered_weights": gathered["layer"]}
    ending = held | {"gradients": states["gradients"], "layer_in_backward": working, "activations": first_layer}
    ending |= {"communication_buckets": buckets, "gathered_weights": gathered["layer"]}
    ending |= {"gradient_cast": cast_bytes(problem, stages)}
    update = held | {"gradients": states["gradients"], "step_temporaries": step, "communication_buckets": in_forward}
    return StageMemory(dict(zip(PHASES, (forward, backward, ending, update), strict=True)))


@formula("colossalai0.5.0")
def head_gradient_bytes(problem: Problem, stages: StageColumns, gradients: Floats) -> Floats:
    """Gradient of the loss head, which backward makes first, on the last stage; at most all gradients."""
    parameters = stage_parameters(problem, stages)
    vocab = np.maximum(parameters["head"], parameters["token_embedding"])
    head = vocab * problem.stack.state_bytes(problem.precision).gradient
    return np.where(stages.is_last, np.minimum(head, gradients), 0.0)


@formula("definition")
def workspace_bytes(problem: Problem) -> float:
    """Workspaces of matrix products, which PyTorch takes from its allocator: one for each thread that launches."""
    return problem.stack.process.workspaces * float(problem.hardware.workspace_bytes)


@formula("definition")
def buffered_gradients(problem: Problem, stages: StageColumns) -> Floats:
    """Gradients of all parameters of a stage in the stack's permanent buffers, filled or not."""
    per_parameter = problem.stack.state_bytes(problem.precision).gradient_buffer
    return total(stage_parameters(problem, stages)) * per_parameter


@formula("pytorch-allocator", "definition")
def flat_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the allocator holds of flat buffers of an optimizer step beside the peak of everything else.

    Flat gradients, where the reduce buckets were, and gathered weights; of the slices for each rank only those that
    are larger than any tensor of a micro batch, in whose blocks the others find room. Moments that are made in the
    first step stand in blocks of its activations, and those of later steps in the flat buffers. Units: bytes.
    """
    gradients, gathered, late = step_buffers(problem, stages)
    fits = slice_bytes(problem, stages) <= largest_tensor_bytes(problem, stages)
    in_blocks = np.where(fits, all_slices_bytes(problem, stages), 0.0) * (gathered > 0)
    flat = np.maximum(gradients, late) + gathered - in_blocks + cast_bytes(problem, stages)
    if not problem.stack.process.moments_in_blocks:
        return flat
    return np.maximum(flat - state_bytes(problem, stages)["optimizer_moments"], 0.0)


@formula("definition")
def reserved_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the allocator holds on a roomy card: the peak, its fragments, and cached blocks.

    A stack whose optimizer step works on flat buffers has them beside the peak of everything else, whose
    blocks are too small for them: flat gradients, where the reduce buckets were, and gathered weights. Blocks
    are given back before the card is full, and so is what collectives hold.
    """
    memory, process = stage_memory(problem, stages), problem.stack.process
    phases, peak = memory.phases, memory.peak_bytes()
    share, cached = 1.0 + fragmentation_share(problem, stages), float(process.cached_bytes)
    room = problem.hardware.memory_bytes - device_overhead_bytes(problem, stages)
    needed = peak
    if process.flat_step_buffers:
        rest = [total(terms) - sum(terms.get(name, 0.0) for name in FLAT_TERMS) for terms in phases.values()]
        needed = np.max(rest, axis=0) + flat_bytes(problem, stages)
    taken = needed * share + cached
    if process.flat_step_buffers:
        taken = np.maximum(peak, np.minimum(taken, room))
    return np.maximum(taken, np.minimum(taken + held_bytes(problem, stages), room))


def predicted_stages(problem: Problem, stages: StageColumns) -> tuple[StagePrediction, ...]:
    """Peak, phase and breakdown of every stage, in whole bytes."""
    memory = stage_memory(problem, stages)
    totals = np.array([total(terms) for terms in memory.phases.values()])
    reserve, overhead = reserve_bytes(problem, stages), device_overhead_bytes(problem, stages)
    reserved_column = reserved_bytes(problem, stages)
    rooms = room(problem, stages, memory.peak_bytes()).tolist()
    judged = float(judged_probability(problem, stages.layouts)[0])
    chances = fits_probabilities(problem, KINDS[int(kind_columns(stages.layouts)[0])], rooms)
    chances = [round(chance * judged, 4) for chance in chances]
    predictions = []
    for row in range(len(stages)):
        phase = PHASES[int(totals[:, row].argmax())]
        terms = {name: round(value) for name, value in at_row(memory.phases[phase], row).items()}
        reserved = round(reserved_column[row])
        predictions.append(
            StagePrediction(
                peak_bytes=sum(terms.values()),
                peak_phase=phase,
                breakdown_bytes=terms,
                reserved_bytes=reserved,
                device_bytes=reserved + round(overhead[row]),
                capacity_bytes=int(problem.hardware.memory_bytes),
                reserve_bytes=round(reserve[row]),
                fits_probability=chances[row],
            )
        )
    return tuple(predictions)
