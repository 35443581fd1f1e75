"""Rules of devices, batch, ZeRO, offload and precision."""

from typing import Any

import numpy as np

from planner.layouts.compilation import is_compiled, may_recompute_pointwise
from planner.layouts.degrees import divisors
from planner.layouts.layout import OFFLOAD_TIERS, SHARDS_WEIGHTS, Layout
from planner.layouts.problem import Problem
from planner.rules.rule import Rule, listed

_HYBRID = "colossalai 0.5.0: booster/plugin/hybrid_parallel_plugin.py"


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    group, batch, divided = layout.replica_devices, problem.global_batch, layout.sequence_parallel_degree > 1
    return {
        "num_devices": problem.num_devices,
        "tensor_parallel": layout.tensor_parallel,
        "pipeline_parallel": layout.pipeline_parallel,
        "divided": layout.sequence_parallel_degree,
        "compiled": "yes" if is_compiled(problem, layout) else "no",
        "data_parallel": layout.data_parallel,
        "product": layout.num_devices,
        "sequence": "SP x " * divided,
        "sequence_degree": f"{layout.sequence_parallel_degree} * " * divided,
        "group": group,
        "whole": problem.num_devices // group,
        "rest": problem.num_devices % group,
        "global_batch": batch,
        "product_batch": layout.global_batch,
        "micro_batch": layout.micro_batch,
        "num_microbatches": layout.num_microbatches,
        "degrees": listed([d for d in divisors(problem.num_devices) if batch % d == 0]),
        "next_batch": -(-batch // layout.data_parallel) * layout.data_parallel,
        "seq_len": problem.seq_len,
        "max_seq_len": problem.model.max_seq_len,
        "model": problem.model.name,
        "zero_stage": layout.zero_stage,
        "precision": layout.precision,
        "asked_precision": problem.precision,
        "schedule": layout.schedule,
        "tensor_mode": layout.tensor_mode,
        "stack": problem.stack.name,
        "hardware": problem.hardware.name,
        "device": problem.hardware.device,
        "tier": layout.offload.tier,
        "optimizer": layout.offload.optimizer,
        "parameters": layout.offload.parameters,
        "allowed": problem.allow_offload,
        "stack_modes": ", ".join(problem.stack.tensor_modes),
        "stack_tiers": ", ".join(problem.stack.offload_tiers),
        "stack_schedules": ", ".join(problem.stack.schedules),
        "sharded_fractions": ", ".join(map(str, offloaded_fractions(problem, SHARDS_WEIGHTS))),
        "stack_zero": ", ".join(map(str, problem.stack.zero_stages)),
        "stack_zero_below": listed([stage for stage in problem.stack.zero_stages if stage < SHARDS_WEIGHTS]),
        "stack_zero_pipeline": ", ".join(map(str, problem.stack.zero_stages_with_pipeline)),
        "stack_zero_accumulation": ", ".join(map(str, problem.stack.zero_stages_with_accumulation)),
        "stack_zero_precisions": ", ".join(problem.stack.zero_precisions),
        "stack_fractions": ", ".join(map(str, offloaded_fractions(problem, layout.zero_stage))),
        "precisions": ", ".join(problem.hardware.peak_flops_per_s),
    }


def offloaded_fractions(problem: Problem, zero_stage: int) -> tuple[float, ...]:
    """Shares of the optimizer that the stack can offload under a ZeRO stage."""
    stack = problem.stack
    return stack.zero3_offload_fractions if zero_stage >= SHARDS_WEIGHTS else stack.offload_optimizer_fractions


def state_rule(**fields: Any) -> Rule:
    """A rule over the values that all rules of devices, states and stacks have."""
    return Rule(values=_values, **fields)


DEVICE_RULES = (
    state_rule(
        id="DEV001",
        about=("count", "mesh"),
        title="degrees do not multiply to the number of GPUs",
        field="data_parallel",
        message="TP x {sequence}PP x DP has to be {num_devices} GPUs, and it is {product}",
        detail="{tensor_parallel} * {sequence_degree}{pipeline_parallel} * {data_parallel} = {product}; "
        "{num_devices} / ({tensor_parallel} * {sequence_degree}{pipeline_parallel}) = {whole}, remainder {rest}",
        hint="data parallelism is set from the other two: choose TP x PP that divides {num_devices}",
        why="Every GPU belongs to exactly one place of the mesh.",
        source=f"{_HYBRID}:1052",
        holds=lambda problem, columns: (
            columns.tensor_parallel * columns.pipeline_parallel * columns.replicas == problem.num_devices
        ),
    ),
    state_rule(
        id="BAT001",
        about=("batch",),
        title="micro batches do not make up the global batch",
        field="data_parallel",
        message="micro batch x micro batches x DP has to be the global batch {global_batch}, and it is {product_batch}",
        detail="{micro_batch} * {num_microbatches} * {data_parallel} = {product_batch}",
        hint="use a data parallel degree of {degrees}, or {field.global_batch} {next_batch}",
        why="Every rank has to get whole micro batches, and the same number of them.",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        holds=lambda problem, columns: (
            columns.micro_batch * columns.num_microbatches * columns.data_parallel == problem.global_batch
        ),
    ),
    state_rule(
        id="SEQ001",
        about=("sequence-length",),
        title="sequence longer than the position table",
        field="micro_batch",
        message="sequences of {seq_len} tokens do not fit the {max_seq_len} positions of {model}",
        detail="{seq_len} > {max_seq_len}",
        hint="use {field.seq_len} {max_seq_len} or less",
        why="A learned position embedding has one row per position.",
        source="definition of the model",
        holds=lambda problem, columns: np.full(len(columns), problem.seq_len <= problem.model.max_seq_len),
    ),
    state_rule(
        id="PRE001",
        title="precision the hardware does not have",
        field="precision",
        message="{hardware} has no matrix rate for {precision}",
        detail="the spec has {precisions}",
        hint="use {field.precision} with one of {precisions}",
        why="Without hardware support the training would run an order of magnitude slower, or not at all.",
        source="hardware spec: peak",
        holds=lambda problem, columns: np.full(len(columns), problem.precision in problem.hardware.peak_flops_per_s),
    ),
)

PRECISION_RULES = (
    state_rule(
        id="PRE002",
        title="layout and question differ in precision",
        field="precision",
        message="the layout is in {precision}, and {asked_precision} was asked for",
        detail="layout: {precision}, question: {asked_precision}",
        hint="use {field.precision} {precision}, or a layout in {asked_precision}",
        why="States, activations and speed follow from the precision.",
        source="definition of the layout fields",
        holds_layout=lambda problem, layout: layout.precision == problem.precision,
    ),
)

STATE_RULES = (
    state_rule(
        id="ZER001",
        about=("library",),
        title="ZeRO stage that a pipeline does not take",
        field="zero_stage",
        message="{name.zero_stage} {zero_stage} does not go with a pipeline of {pipeline_parallel} stages",
        detail="stack {stack} takes ZeRO {stack_zero_pipeline} with a pipeline",
        hint="use ZeRO {stack_zero_pipeline}, or one pipeline stage",
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them.",
        source=f"{_HYBRID}:1134; stack spec: zero_stages_with_pipeline",
        holds=lambda problem, columns: (
            (columns.pipeline_parallel == 1) | np.isin(columns.zero_stage, problem.stack.zero_stages_with_pipeline)
        ),
    ),
    state_rule(
        id="ZER002",
        about=("library",),
        title="ZeRO in a precision it does not take",
        field="zero_stage",
        message="{name.zero_stage} {zero_stage} does not run in {precision}",
        detail="stack {stack} takes ZeRO in {stack_zero_precisions}",
        hint="use {field.precision} {stack_zero_precisions}, or {name.zero_stage} 0",
        why="The sharded optimizer keeps a full-precision master copy beside a half-precision model.",
        source=f"{_HYBRID}:1361; stack spec: zero_precisions",
        holds=lambda problem, columns: (
            (columns.zero_stage == 0) | np.full(len(columns), problem.precision in problem.stack.zero_precisions)
        ),
    ),
    state_rule(
        id="ZER003",
        about=("batch", "library"),
        title="ZeRO stage that cannot accumulate micro batches",
        field="num_microbatches",
        message="{name.zero_stage} {zero_stage} cannot accumulate {num_microbatches} micro batches",
        detail="stack {stack} accumulates under ZeRO {stack_zero_accumulation}",
        hint="use one micro batch, or ZeRO {stack_zero_accumulation}",
        why="Stage 2 gives away its gradients after every backward pass.",
        source=f"{_HYBRID}:1503; stack spec: zero_stages_with_accumulation",
        holds=lambda problem, columns: (
            (columns.pipeline_parallel > 1)
            | (columns.num_microbatches == 1)
            | np.isin(columns.zero_stage, problem.stack.zero_stages_with_accumulation)
        ),
    ),
    state_rule(
        id="ZER004",
        about=("runtime",),
        title="ZeRO stage 3 with tensor parallelism",
        field="zero_stage",
        message="{name.zero_stage} 3 does not go with {name.tensor_parallel} {tensor_parallel}",
        detail="{field.zero_stage} = {zero_stage}, {field.tensor_parallel} = {tensor_parallel}",
        hint="use ZeRO {stack_zero_below}, or {name.tensor_parallel} 1",
        why="Gemini takes no policy of ours for the tensor-parallel layers, and the library's own is not causal.",
        source="colossalai 0.5.0: booster/plugin/gemini_plugin.py:675, shardformer/modeling/gpt2.py:88-105",
        holds=lambda problem, columns: (
            (columns.zero_stage < SHARDS_WEIGHTS) | (columns.tensor_parallel == 1) | problem.stack.sharded.with_tensor
        ),
    ),
    state_rule(
        id="ZER005",
        about=("runtime", "gpu"),
        title="ZeRO stage 3 without a GPU",
        field="zero_stage",
        message="{name.zero_stage} 3 does not run on {hardware}, which is no GPU",
        detail="{field.zero_stage} = {zero_stage}, device = {device}",
        hint="use ZeRO {stack_zero_below}, or a GPU",
        why="Gemini divides its chunks of weights with calls that only CUDA answers.",
        source="colossalai 0.5.0: zero/gemini/chunk/chunk.py:522",
        holds=lambda problem, columns: (columns.zero_stage < SHARDS_WEIGHTS) | (problem.hardware.device == "cuda"),
    ),
    state_rule(
        id="RCP001",
        about=("runtime",),
        title="pointwise recomputation of blocks that are not compiled whole",
        field="recompute_pointwise",
        message="{stack} cannot make outputs of norms and activation functions again in this layout",
        detail="blocks are compiled: {compiled}, tensor_parallel = {tensor_parallel}, "
        "sequence_parallel_degree = {divided}, {field.zero_stage} = {zero_stage}, {field.schedule} = {schedule}",
        hint="set recompute_pointwise to false",
        why="A compiled block chooses what its backward makes again of what its own kernels made; the inputs of "
        "collectives, of products with them and of products that put weight gradients off are kept by those.",
        source="pytorch 2.11: torch/_functorch/partitioners.py, ban_recompute_materialized_backward",
        holds=lambda problem, columns: (columns.recompute_pointwise == 0) | may_recompute_pointwise(problem, columns),
    ),
    state_rule(
        id="OFF001",
        title="offload that was not allowed",
        field="offload.tier",
        message="offload to {tier} is not allowed here",
        detail="allowed: {allowed}",
        hint="add {field.allow_offload} {tier}",
        why="Offload trades speed for memory, so it is only used when asked for.",
        source="the offload that was allowed",
        holds=lambda problem, columns: columns.offload_tier <= OFFLOAD_TIERS.index(problem.allow_offload),
    ),
    state_rule(
        id="OFF002",
        about=("library",),
        title="offload share and tier contradict each other",
        field="offload.optimizer",
        message="an optimizer share of {optimizer} does not go with offload tier {tier}",
        detail="offload.optimizer = {optimizer}, offload.tier = {tier}",
        hint="use tier none with share 0, and tier cpu or nvme with a share above 0",
        why="A share above 0 has to go somewhere.",
        source="definition of the layout fields",
        holds=lambda problem, columns: (columns.offload_tier == 0) == (columns.offload_optimizer == 0),
    ),
    state_rule(
        id="OFF003",
        about=("library",),
        title="offload without ZeRO",
        field="zero_stage",
        message="offload of the optimizer needs {name.zero_stage} 1 or higher",
        detail="offload.optimizer = {optimizer}, {field.zero_stage} = {zero_stage}",
        hint="use {name.zero_stage} 1",
        why="Only the sharded optimizer can keep its states on the host.",
        source="colossalai 0.5.0: zero/low_level/low_level_optim.py:263-299 (cpu_offload)",
        holds=lambda problem, columns: (columns.offload_tier == 0) | (columns.zero_stage >= 1),
    ),
    state_rule(
        id="OFF004",
        about=("runtime",),
        title="weights leave the device before the optimizer",
        field="offload.parameters",
        message="a share of {parameters} of the weights is offloaded, and {optimizer} of the optimizer",
        detail="offload.parameters = {parameters}, offload.optimizer = {optimizer}, {field.zero_stage} = {zero_stage}",
        hint="set offload.optimizer to 1, or offload.parameters to 0",
        why="The placement policy moves weights only once all optimizer states are on the host.",
        source="colossalai 0.5.0: zero/gemini/placement_policy.py:59-61",
        holds=lambda problem, columns: (columns.offload_parameters == 0) | (columns.offload_optimizer == 1),
    ),
)
