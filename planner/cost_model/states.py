"""Training states: what one rank keeps of weights, gradients and optimizer between the phases of a step."""

import numpy as np

from planner.cost_model.chunks import pieces
from planner.cost_model.parameters import stage_parameters, updated_parameters, weight_shards
from planner.cost_model.parts import block
from planner.cost_model.shares import shares
from planner.cost_model.sources import formula
from planner.cost_model.terms import Terms, total
from planner.layouts.compilation import are_compiled, in_one_pass, reduces_itself, shards_itself
from planner.layouts.layout import SHARDS_GRADIENTS, SHARDS_OPTIMIZER, SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, StageColumns, once_per_places, once_per_stages
from planner.specs import ELEMENT_BYTES


@formula("rajbhandari2020", "colossalai0.5.0")
def state_bytes(problem: Problem, stages: StageColumns) -> Terms:
    """Weights, gradients, master weights and optimizer moments that one rank keeps on its device.

    Bytes per parameter come from the stack. ZeRO 1 divides master weights and moments by the data-parallel
    degree, ZeRO 2 the gradients as well, ZeRO 3 the weights too; gradients of a single micro batch may then
    take the place of the weights, or master weights be all that stays. An offloaded share leaves: of the
    optimizer with the gradients that update it, under ZeRO 3, and of the weights. An update in one pass may need less
    of master weights than all.
    """
    columns, sharded = stages.layouts, problem.stack.sharded
    per_parameter = problem.stack.state_bytes(problem.precision)
    parameters = total(stage_parameters(problem, stages))
    updated = updated_parameters(problem, stages)
    in_pieces = columns.zero_stage >= SHARDS_WEIGHTS
    gradient_shards = np.where(columns.zero_stage >= SHARDS_GRADIENTS, columns.replicas, 1)
    on_device = 1.0 - columns.offload_optimizer
    own, at_once = problem.stack.compiled, in_one_pass(problem, columns)
    master = np.where(at_once, own.one_pass_master_bytes if own else 0.0, per_parameter.master)
    reused = sharded.gradients_reuse_weights & (columns.num_microbatches == 1)
    held = np.where(in_pieces, updated * sharded.keeps_weights, parameters)
    return {
        "weights": held * per_parameter.weight * (1.0 - columns.offload_parameters),
        "gradients": np.where(
            in_pieces,
            updated * on_device * np.where(reused, 0.0, per_parameter.gradient),
            parameters * per_parameter.gradient / gradient_shards,
        ),
        "master_weights": updated * master * on_device,
        "optimizer_moments": updated * per_parameter.moments * on_device,
    }


@formula("colossalai0.5.0")
def bucket_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Communication buckets alive in backward.

    Without a pipeline, and without ZeRO or on a single data-parallel rank, torch DDP's gradient
    buckets (a copy of the gradients), on small ranks of some stacks twice: in the second step DDP lays
    them out anew, and NCCL may not have let go of the first ones. With ZeRO 1 and 2 two reduce buckets:
    the flattened gradients and the copy in flight, no larger than the gradients; with a pipeline, or where
    the stack has one engine for both, they come after the last backward: :func:`step_bytes`. ZeRO 3 has
    pieces: :func:`gathered_bytes`. Some stacks have DDP in pipelines too, where ranks share weights. Compiled
    layouts reduce gradients where they are, under ZeRO 2 those of a block, which come at once, and of two buckets on
    their way.
    """
    columns, stack = stages.layouts, problem.stack
    parameters = total(stage_parameters(problem, stages))
    in_grid, in_pieces = columns.mode_is("2d", "2.5d", "3d"), columns.zero_stage >= SHARDS_WEIGHTS
    layouts = np.where(parameters <= stack.ddp_twice_up_to, 2.0, 1.0)
    ddp = np.where(in_grid, 0.0, parameters * stack.state_bytes(problem.precision).ddp_bucket * layouts)
    zero = _zero_buckets(problem, stages)
    without_zero, shared = columns.zero_stage == 0, columns.replicas > 1
    wrapped = without_zero & shared if stack.ddp_with_pipeline else without_zero | ~shared
    buckets = np.where(columns.zero_stage >= SHARDS_OPTIMIZER, zero, 0.0)
    buckets = np.where(_reduces_late(problem, stages), 0.0, buckets)
    alone = (columns.pipeline_parallel == 1) | stack.ddp_with_pipeline
    compiled = stack.compiled is not None and stack.compiled.ddp_alone
    wrapped = wrapped & ~reduces_itself(problem, columns)
    wrapped = wrapped & (shared | np.where(are_compiled(problem, columns), compiled, stack.ddp_alone))
    during = np.where(alone, np.where(wrapped, ddp, 0.0), 0.0) + buckets
    return np.where(in_pieces, 0.0, during)


def _reduces_late(problem: Problem, stages: StageColumns) -> Booleans:
    return (stages.layouts.pipeline_parallel > 1) | problem.stack.zero_reduces_late


def _zero_buckets(problem: Problem, stages: StageColumns) -> Floats:
    gradients = total(stage_parameters(problem, stages)) * ELEMENT_BYTES[problem.precision]
    buckets = 2.0 * np.minimum(float(problem.stack.zero_bucket_bytes), gradients)
    own = shards_itself(problem, stages.layouts)
    if not own.any():
        return buckets
    block = stage_parameters(problem, stages)["layers"] / np.maximum(stages.num_layers, 1)
    whole = block * ELEMENT_BYTES[problem.precision] + buckets
    return np.where(own, np.where(stages.layouts.zero_stage < SHARDS_GRADIENTS, 0.0, whole), buckets)


@formula("rajbhandari2020", "colossalai0.5.0")
@once_per_places
def gathered_bytes(problem: Problem, stages: StageColumns) -> Terms:
    """Whole pieces on the device under ZeRO 3, beyond the rank's own share of them.

    ``head``: the largest piece, that of the token embedding, while the loss runs. ``layer``: the pieces
    in use and gathered ahead within the layers, and those of gradients not yet scattered.
    """
    columns, sharded, plan = stages.layouts, problem.stack.sharded, pieces(problem)
    per_parameter = problem.stack.state_bytes(problem.precision)
    divided = (columns.zero_stage >= SHARDS_WEIGHTS) & plan.is_sharded
    per_rank = np.where(divided, 1.0 / columns.tensor_parallel, 0.0)
    layer = plan.layer * (sharded.live_units * per_parameter.weight + sharded.gradient_units * per_parameter.gradient)
    return {"head": per_rank * plan.largest * per_parameter.weight, "layer": per_rank * layer}


@formula("colossalai0.5.0")
def step_gradient_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Full-precision gradients of the optimizer step, beyond what the gradients already take.

    Of all local parameters without ZeRO, of the local shard with it. ``offload`` does not change it
    below ZeRO 3: the gradient is cast on the device before it leaves. An update in one pass has none.
    """
    columns, per_parameter = stages.layouts, problem.stack.state_bytes(problem.precision)
    in_pieces = columns.zero_stage >= SHARDS_WEIGHTS
    growth = np.where(
        columns.zero_stage >= SHARDS_OPTIMIZER, per_parameter.zero_step_gradient, per_parameter.step_gradient
    )
    growth = np.where(in_one_pass(problem, columns), 0.0, growth)
    of_pieces = problem.stack.sharded.step_gradient * (1.0 - columns.offload_optimizer)
    return updated_parameters(problem, stages) * np.where(in_pieces, of_pieces, growth)


@formula("colossalai0.5.0")
def gather_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Buffer of the parameter all-gather after a ZeRO 1 or 2 step: at most all weights.

    A bucket per rank; or all weights in as many equal parts as reach the size that the stack sets. None where they
    arrive in place, as they do under compiled ZeRO. A stack that copies slices has them apart as well, and its own one.
    """
    columns, stack = stages.layouts, problem.stack
    weights = total(stage_parameters(problem, stages)) * ELEMENT_BYTES[problem.precision]
    gathered: Floats = np.minimum(columns.replicas * float(stack.zero_bucket_bytes), weights)
    if stack.zero_gather_bytes is not None:
        gathered = weights / np.maximum(weights // float(stack.zero_gather_bytes), 1.0)
    gathered = gathered + all_slices_bytes(problem, stages)
    whole = weight_shards(problem, stages) == 1
    gathers = (columns.zero_stage >= SHARDS_OPTIMIZER) & (columns.zero_stage < SHARDS_WEIGHTS) & whole
    in_place = stack.zero_gathers_in_place | shards_itself(problem, columns)
    return np.where(gathers & (columns.replicas > 1) & ~in_place, gathered, 0.0)


@formula("definition")
def slice_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """One rank's slice of all weights of a stage, where the stack gathers ZeRO's into a flat tensor for each rank."""
    if not problem.stack.zero_copies_slices:
        return np.zeros(len(stages))
    weights = total(stage_parameters(problem, stages)) * ELEMENT_BYTES[problem.precision]
    return np.where(stages.layouts.zero_stage == SHARDS_OPTIMIZER, weights / stages.layouts.replicas, 0.0)


def all_slices_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Such a slice of every rank, and the rank's own one once more."""
    return slice_bytes(problem, stages) * (stages.layouts.replicas + 1.0)


@formula("colossalai0.5.0")
def step_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """The largest of :func:`step_buffers`: they follow each other."""
    gradients, gathered, late = step_buffers(problem, stages)
    return np.maximum(np.maximum(gradients, gathered), late)


@formula("colossalai0.5.0")
@once_per_stages
def step_buffers(problem: Problem, stages: StageColumns) -> tuple[Floats, Floats, Floats]:
    """What the end of a step takes: full-precision gradients, gathers, and late reduce buckets.

    Below ZeRO 3 with ZeRO, copies of gradients that the stack makes beside them come on top.
    """
    columns, per_parameter = stages.layouts, problem.stack.state_bytes(problem.precision)
    below = (columns.zero_stage >= SHARDS_OPTIMIZER) & (columns.zero_stage < SHARDS_WEIGHTS)
    copies = np.where(below, total(stage_parameters(problem, stages)) * per_parameter.zero_step_copy, 0.0)
    late = np.where(below & _reduces_late(problem, stages), _zero_buckets(problem, stages), 0.0)
    return step_gradient_bytes(problem, stages) + copies, gather_bytes(problem, stages), late


@formula("definition")
def cast_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """The copy through which the gradient of the largest weight of a stage accumulates."""
    parameters = stage_parameters(problem, stages)
    part = shares(stages.layouts).matrix
    vocab = np.maximum(parameters["head"], parameters["token_embedding"])
    matrix = max(product.inner * product.outer for product in block(problem).products)
    largest = np.maximum(vocab, float(matrix) * part)
    return largest * problem.stack.state_bytes(problem.precision).tensor_cast
