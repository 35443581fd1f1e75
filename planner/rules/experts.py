"""Rules of experts: which ranks may hold them, and what libraries get wrong when several do."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.degrees import divisors, expert_ranks
from planner.layouts.layout import Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.rules.rule import ColumnPredicate, Rule, listed

_PLUGIN = "colossalai 0.5.0: booster/plugin/moe_hybrid_parallel_plugin.py"


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    model, stack, degree = problem.model, problem.stack, layout.expert_parallel
    count = 0 if model.experts is None else model.experts.count
    ranks = expert_ranks(stack, layout.tensor_parallel, layout.data_parallel * layout.sequence_parallel_degree)
    return {
        "model": model.name,
        "stack": stack.name,
        "family": model.family or "no known family",
        "families": ", ".join(stack.experts.families) or "no family",
        "degree": degree,
        "count": count,
        "ffn": 0 if model.experts is None else model.experts.ffn_hidden_size,
        "balance": 0 if model.experts is None else model.experts.balance_loss,
        "rest": count % degree,
        "ranks": ranks,
        "ranks_rest": ranks % degree,
        "copies": ranks // degree,
        "tensor_parallel": layout.tensor_parallel,
        "pipeline_parallel": layout.pipeline_parallel,
        "chunks": layout.num_model_chunks,
        "zero_stage": layout.zero_stage,
        "tier": layout.offload.tier,
        "expert_zero": ", ".join(map(str, stack.experts.zero_stages)) or "none",
        "valid": listed(divisors(math.gcd(max(count, 1), ranks))),
        "valid_tensor": listed(divisors(math.gcd(max(count, 1), problem.num_devices))),
        "dense": model.dense_layers,
        "first": sum(layout.layers_per_stage[:1]),
        "tensor_mode": layout.tensor_mode,
    }


def _ranks(problem: Problem, columns: LayoutColumns) -> NDArray[np.int64]:
    return np.asarray(expert_ranks(problem.stack, columns.tensor_parallel, columns.replicas))


def _alone(columns: LayoutColumns) -> NDArray[np.bool_]:
    return columns.expert_parallel == 1


def _of_divided(holds: ColumnPredicate) -> ColumnPredicate:
    """A predicate for layouts whose experts several ranks divide; true of all others, and quickly if there are none."""

    def judged(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
        alone = _alone(columns)
        return alone if alone.all() else alone | holds(problem, columns)

    return judged


def _of_experts(holds: ColumnPredicate) -> ColumnPredicate:
    """A predicate for models with experts; true of all others."""

    def judged(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
        return np.ones(len(columns), dtype=bool) if problem.model.experts is None else holds(problem, columns)

    return judged


def _count(problem: Problem) -> int:
    return 0 if problem.model.experts is None else problem.model.experts.count


def _width(problem: Problem) -> int:
    return 0 if problem.model.experts is None else problem.model.experts.ffn_hidden_size


def _balance(problem: Problem) -> float:
    return 0.0 if problem.model.experts is None else problem.model.experts.balance_loss


RULES = (
    Rule(
        id="EP001",
        about=("runtime",),
        title="expert parallelism the stack does not have for the model",
        field="expert_parallel",
        message="stack {stack} does not divide the experts of {model} over {degree} ranks",
        detail="{model} is of {family} and has {count} experts in a layer; it does for {families}",
        hint="set expert_parallel to 1",
        values=_values,
        why="Only experts that a library knows as such are sent their tokens by all-to-all.",
        source=f"{_PLUGIN}; stack spec: experts.families",
        holds=_of_divided(
            lambda problem, columns: np.full(
                len(columns),
                problem.model.experts is not None and problem.model.family in problem.stack.experts.families,
            )
        ),
    ),
    Rule(
        id="EP002",
        title="expert parallel degree does not divide the experts",
        field="expert_parallel",
        message="expert parallel degree {degree} does not divide the {count} experts of a layer of {model}",
        detail="{count} % {degree} = {rest}",
        hint="use an expert_parallel of {valid}",
        values=_values,
        why="Each rank of the group holds as many experts as any other.",
        source="colossalai 0.5.0: shardformer/modeling/mixtral.py, setup_process_groups; Megatron Core: "
        "transformer/moe/moe_layer.py, num_moe_experts % expert_model_parallel_size",
        holds=_of_experts(lambda problem, columns: _count(problem) % columns.expert_parallel == 0),
    ),
    Rule(
        id="EP003",
        about=("degrees", "mesh"),
        title="expert parallel degree does not divide the ranks that may hold experts",
        field="expert_parallel",
        message="expert parallel degree {degree} does not divide the {ranks} ranks of a stage that may hold experts",
        detail="{ranks} % {degree} = {ranks_rest}",
        hint="use an expert_parallel of {valid}",
        values=_values,
        why="The group lies inside data parallelism: its ranks are fed different sequences; where the stack leaves "
        "experts whole under tensor parallelism, inside both.",
        source=f"{_PLUGIN}:268 (dp_size % ep_size); Megatron Core: parallel_state.py, the mesh of experts",
        holds=_of_divided(lambda problem, columns: _ranks(problem, columns) % columns.expert_parallel == 0),
    ),
    Rule(
        id="EP004",
        about=("library",),
        title="ZeRO stage that expert parallelism does not take",
        field="zero_stage",
        message="{name.zero_stage} {zero_stage} does not go with an expert parallel degree of {degree}",
        detail="stack {stack} takes ZeRO {expert_zero} with it",
        hint="use {name.zero_stage} {expert_zero}, or an expert_parallel of 1",
        values=_values,
        why="Without ZeRO the library fails on a name that it never defines, or with a pipeline averages the gradients "
        "of different experts as if they were copies; stage 2 it turns into stage 1 with a warning.",
        source=f"{_PLUGIN}:227-229,454; hybrid_parallel_plugin.py:161; stack spec: experts.zero_stages",
        holds=_of_divided(lambda problem, columns: np.isin(columns.zero_stage, problem.stack.experts.zero_stages)),
    ),
    Rule(
        id="EP005",
        about=("library",),
        title="tensor parallel degree that does not divide the experts",
        field="tensor_parallel",
        message="{name.tensor_parallel} {tensor_parallel} does not divide the {count} experts of a layer of {model}",
        detail="experts.count = {count}",
        hint="use a {name.tensor_parallel} of {valid_tensor}",
        values=_values,
        why="The router is divided by experts over the ranks, though each of them holds a part of every expert.",
        source="colossalai 0.5.0: shardformer/policies/mixtral.py, block_sparse_moe.gate (Linear1D_Col); stack spec: "
        "experts.by_count",
        holds=_of_experts(
            lambda problem, columns: (
                (not problem.stack.experts.by_count) | (_count(problem) % columns.tensor_parallel == 0)
            )
        ),
    ),
    Rule(
        id="EP006",
        title="tensor parallel degree does not divide the width of an expert",
        field="tensor_parallel",
        message="{name.tensor_parallel} {tensor_parallel} does not divide the {ffn} units of an expert of {model}",
        detail="experts.ffn_hidden_size = {ffn}",
        hint="use a {name.tensor_parallel} that divides {ffn}",
        values=_values,
        why="Each tensor-parallel rank holds an equal share of every expert.",
        source="colossalai 0.5.0: shardformer/policies/mixtral.py; stack spec: experts.by_tensor",
        holds=_of_experts(
            lambda problem, columns: (
                (not problem.stack.experts.by_tensor)
                | ~columns.mode_is("1d")
                | (_width(problem) % columns.tensor_parallel == 0)
            )
        ),
    ),
    Rule(
        id="EP007",
        about=("library",),
        title="copies of experts whose gradients the library does not average",
        field="expert_parallel",
        message="expert parallel degree {degree} leaves {copies} copies of each expert, and stack {stack} averages "
        "their gradients over those alone that got tokens",
        detail="{ranks} / {degree} = {copies}",
        hint="use an expert_parallel of {ranks}, or of 1",
        values=_values,
        why="Where an expert gets no token of a micro batch on some of the ranks that hold a copy of it, its gradient "
        "is multiplied by the copies over the ranks that got one.",
        source="colossalai 0.5.0: moe/_operation.py:335-378; stack spec: experts.copies",
        holds=_of_divided(
            lambda problem, columns: (
                problem.stack.experts.copies | (_ranks(problem, columns) == columns.expert_parallel)
            )
        ),
    ),
    Rule(
        id="EP008",
        about=("library",),
        title="loss that balances experts under a pipeline that loses it",
        field="pipeline_parallel",
        message="{pipeline_parallel} stages of stack {stack} do not train the routers of {model} by its balance loss",
        detail="experts.balance_loss = {balance}",
        hint="use one stage, or experts.balance_loss = 0 in the model",
        values=_values,
        why="Gradients of the routers' scores are not sent back to earlier stages, whose routers get wrong ones; the "
        "interleaved schedule hangs.",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:322; stack spec: experts.balance_loss_in_pipeline",
        holds=_of_experts(
            lambda problem, columns: (
                (columns.pipeline_parallel == 1)
                | problem.stack.experts.balance_loss_in_pipeline
                | (_balance(problem) == 0)
            )
        ),
    ),
    Rule(
        id="EP009",
        about=("library",),
        title="experts under tensor parallelism without sequence parallelism",
        field="sequence_parallel",
        message="stack {stack} trains experts under {name.tensor_parallel} {tensor_parallel} only on slices of "
        "sequences",
        detail="{field.tensor_parallel} = {tensor_parallel}, {field.sequence_parallel} = false",
        hint="set {field.sequence_parallel} to true, or {name.tensor_parallel} to 1",
        values=_values,
        why="Each tensor-parallel rank sends the tokens of its own slice; without slices all would send the same ones.",
        source="Megatron Core: transformer/moe/moe_layer.py refuses to train so; stack spec: experts.needs_slices",
        holds=_of_experts(
            lambda problem, columns: (
                (not problem.stack.experts.needs_slices)
                | (columns.tensor_parallel == 1)
                | (columns.sequence_parallel == 1)
            )
        ),
    ),
    Rule(
        id="EP010",
        about=("runtime",),
        title="offload with expert parallelism",
        field="offload.tier",
        message="states are not offloaded to {tier} with an expert parallel degree of {degree}",
        detail="offload.tier = {tier}, expert_parallel = {degree}",
        hint="use tier none, or an expert_parallel of 1",
        values=_values,
        why="The optimizer of experts is one of its own, whose states nothing has moved to a host and compared.",
        source="gptplan: not run",
        holds=_of_divided(lambda problem, columns: columns.offload_tier == 0),
    ),
    Rule(
        id="EP011",
        about=("layers-per-stage",),
        title="first stage without all blocks that have no experts",
        field="layers_per_stage",
        message="the first {dense} blocks of {model} have no experts and belong on the first stage, which has {first}",
        detail="{first} < {dense} * {chunks}",
        hint="give the first stage {dense} layers or more in its first chunk, or use fewer stages",
        values=_values,
        why="The memory of a stage is worked out from where these blocks are.",
        source="gptplan: the model of a stage's memory",
        holds_layout=lambda problem, layout: (
            sum(layout.layers_per_stage[:1]) >= problem.model.dense_layers * layout.num_model_chunks
        ),
    ),
    Rule(
        id="EP012",
        about=("runtime",),
        title="experts in a grid",
        field="tensor_mode",
        message="mode {tensor_mode} does not divide the experts of {model}",
        detail="{field.tensor_mode} = {tensor_mode}",
        hint="use {field.mode} 1d",
        values=_values,
        why="The layers of the grid modes have no experts.",
        source="colossalai 0.5.0: legacy/nn/layer",
        holds=_of_experts(lambda problem, columns: columns.mode_is("none", "1d")),
    ),
)
