"""Rules of sequence parallelism: slices in the tensor-parallel group, and ranks of their own."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.degrees import GRID_MODES, divisors
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.sequences import passes_keys, pieces_of_sequence
from planner.rules.rule import Rule, listed
from planner.rules.tensor import valid_degrees


def _sequence_values(problem: Problem, layout: Layout) -> dict[str, Any]:
    degree, ranks = layout.tensor_parallel, layout.sequence_parallel_degree
    return {
        "seq_len": problem.seq_len,
        "tensor_parallel": degree,
        "sequence_ranks": f" x {ranks} ranks of the sequence" if ranks > 1 else "",
        "both": degree * ranks,
        "rest": problem.seq_len % (degree * ranks),
        "tensor_mode": layout.tensor_mode,
        "valid": valid_degrees(problem, problem.seq_len),
    }


def _exchange_values(problem: Problem, layout: Layout) -> dict[str, Any]:
    model, degree = problem.model, layout.sequence_parallel_degree
    both = degree * layout.tensor_parallel
    heads, pieces = math.gcd(model.num_heads, model.kv_heads), pieces_of_sequence(problem)
    return {
        "model": model.name,
        "stack": problem.stack.name,
        "family": model.family or "no known family",
        "seq_len": problem.seq_len,
        "degree": degree,
        "tensor_parallel": layout.tensor_parallel,
        "tensor_mode": layout.tensor_mode,
        "zero_stage": layout.zero_stage,
        "both": both,
        "pieces": degree * pieces,
        "rest": problem.seq_len % (degree * pieces),
        "num_heads": model.num_heads,
        "kv_heads": model.kv_heads,
        "families": ", ".join((*problem.stack.all_to_all_families, *problem.stack.ring_families)) or "no family",
        "with_tensor": ", ".join(problem.stack.all_to_all_tensor_families) or "no family",
        "valid": listed([d for d in divisors(heads) if heads % (d * layout.tensor_parallel) == 0]),
        "valid_tokens": listed([d for d in divisors(problem.seq_len // pieces) if pieces > 1 or heads % d == 0]),
    }


def _exchanges(columns: LayoutColumns) -> NDArray[np.bool_]:
    return columns.sequence_parallel_degree > 1


def _runs_exchange(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where the stack has it for the model's family: outside of grids and ZeRO 3, by all-to-all of TP for some."""
    stack, family = problem.stack, problem.model.family
    plain = ~columns.mode_is(*GRID_MODES) & (columns.zero_stage < SHARDS_WEIGHTS)
    alone = (columns.tensor_parallel == 1) | (family in stack.all_to_all_tensor_families)
    return plain & (passes_keys(problem) | alone & (family in stack.all_to_all_families))


RULES = (
    Rule(
        id="SP003",
        about=("runtime",),
        title="ranks of a sequence that the stack does not have",
        field="sequence_parallel_degree",
        message="stack {stack} does not divide sequences of {model} over {degree} ranks of their own here",
        detail="{model} is of {family}; it does for {families}, by all-to-all with tensor parallelism for "
        "{with_tensor}, and neither in grids nor under ZeRO 3",
        hint="set sequence_parallel_degree to 1",
        values=_exchange_values,
        why="Attention needs whole heads of the whole sequence; a library that does not exchange them trains on "
        "slices, or overwrites head counts that tensor parallelism has divided.",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py and mistral.py have no all_to_all, qwen2.py sets head "
        "counts twice; stack spec: all_to_all_families, all_to_all_tensor_families, ring_families",
        holds=lambda problem, columns: ~_exchanges(columns) | _runs_exchange(problem, columns),
    ),
    Rule(
        id="SP004",
        title="ranks do not divide the sequence",
        field="sequence_parallel_degree",
        message="sequence length {seq_len} does not divide by the sequence parallel degree {degree}",
        detail="{seq_len} % {pieces} = {rest}",
        hint="use a sequence_parallel_degree of {valid_tokens}",
        values=_exchange_values,
        why="Each rank holds an equal slice of the sequence, or in a ring one of its front and one of its back, so "
        "that causal attention is even.",
        source="Jacobs et al. 2023 (arXiv 2309.14509), section 3; colossalai 0.5.0: shardformer/layer/_operation.py; "
        "Megatron Core, transformer/transformer_config.py",
        holds=lambda problem, columns: (
            ~_exchanges(columns)
            | (problem.seq_len % (columns.sequence_parallel_degree * pieces_of_sequence(problem)) == 0)
        ),
    ),
    Rule(
        id="SP005",
        title="all-to-all does not divide the heads",
        field="sequence_parallel_degree",
        message="{degree} ranks of all-to-all x TP {tensor_parallel} do not divide the {num_heads} heads and "
        "{kv_heads} heads of keys of {model}",
        detail="{degree} * {tensor_parallel} = {both}; num_heads = {num_heads}, kv_heads = {kv_heads}",
        hint="use a sequence_parallel_degree of {valid}",
        values=_exchange_values,
        why="Inside of attention each rank works on whole heads, of queries and of keys.",
        source="Jacobs et al. 2023 (arXiv 2309.14509), section 3; colossalai 0.5.0: shardformer/modeling/llama.py",
        holds=lambda problem, columns: (
            ~_exchanges(columns)
            | passes_keys(problem)
            | (
                (problem.model.num_heads % (columns.sequence_parallel_degree * columns.tensor_parallel) == 0)
                & (problem.model.kv_heads % (columns.sequence_parallel_degree * columns.tensor_parallel) == 0)
            )
        ),
    ),
    Rule(
        id="SP006",
        about=("runtime",),
        title="both kinds of sequence parallelism at once",
        field="sequence_parallel",
        message="sequences are divided over {degree} ranks by all-to-all, and in the tensor parallel group as well",
        detail="sequence_parallel_degree = {degree}, {field.sequence_parallel} = true",
        hint="set {field.sequence_parallel} to false, or sequence_parallel_degree to 1",
        values=_exchange_values,
        why="The library has one mode of sequence parallelism at a time.",
        source="colossalai 0.5.0: booster/plugin/hybrid_parallel_plugin.py, sequence_parallelism_mode",
        holds=lambda problem, columns: ~_exchanges(columns) | passes_keys(problem) | (columns.sequence_parallel == 0),
    ),
    Rule(
        id="SP001",
        title="sequence parallelism without 1d tensor parallelism",
        field="sequence_parallel",
        message="sequence parallelism needs {name.tensor_mode} 1d with a degree above 1",
        detail="{field.tensor_mode} = {tensor_mode}, {field.tensor_parallel} = {tensor_parallel}",
        hint="set {field.sequence_parallel} to false, or {field.tensor_mode} to 1d and {field.tensor_parallel} to 2 "
        "or more",
        values=_sequence_values,
        why="The sequence is split over the ranks of the tensor-parallel group.",
        source="colossalai 0.5.0: booster/plugin/hybrid_parallel_plugin.py:1066",
        holds=lambda problem, columns: (
            (columns.sequence_parallel == 0) | (columns.mode_is("1d") & (columns.tensor_parallel > 1))
        ),
    ),
    Rule(
        id="SP002",
        title="tensor parallel degree does not divide the sequence",
        field="sequence_parallel",
        message="sequence length {seq_len} does not divide by {name.tensor_parallel} {tensor_parallel}{sequence_ranks}",
        detail="{seq_len} % {both} = {rest}",
        hint="use a {name.tensor_parallel} of {valid}, or set {field.sequence_parallel} to false",
        values=_sequence_values,
        why="Each rank holds an equal slice of the sequence.",
        source="colossalai 0.5.0: shardformer/layer/_operation.py:1197",
        holds=lambda problem, columns: (
            (columns.sequence_parallel == 0)
            | (problem.seq_len % (columns.tensor_parallel * columns.sequence_parallel_degree) == 0)
        ),
    ),
)
