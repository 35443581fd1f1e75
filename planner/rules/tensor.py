"""Rules of tensor and sequence parallelism."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.degrees import GRID_MODES, divisors, grid_ranks, makes_grid
from planner.layouts.layout import Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.layouts.stages import padded_vocab
from planner.rules.rule import Rule, listed
from planner.specs import TensorMode

_HYBRID = "colossalai 0.5.0: shardformer/policies/gpt2.py:67, shardformer/layer/qkv_fused_linear.py:73,115"
_LEGACY = "colossalai 0.5.0: legacy/context/process_group_initializer/initializer_{2d,2p5d,3d}.py"


def _divides(size: int, columns: LayoutColumns) -> NDArray[np.bool_]:
    return ~columns.mode_is("1d") | (size % columns.tensor_parallel == 0)


def valid_degrees(problem: Problem, size: int) -> str:
    """Degrees that divide a size and the devices, in words."""
    return listed([d for d in divisors(size) if problem.num_devices % d == 0])


def _division(rule_id: str, name: str, size_of: str) -> Rule:
    """A rule that a model dimension divides by the 1D tensor-parallel degree."""

    def values(problem: Problem, layout: Layout) -> dict[str, Any]:
        size, degree = getattr(problem.model, size_of), layout.tensor_parallel
        return {
            "model": problem.model.name,
            "size": size,
            "tensor_parallel": degree,
            "rest": size % degree,
            "num_devices": problem.num_devices,
            "valid": valid_degrees(problem, size),
        }

    return Rule(
        id=rule_id,
        title=f"tensor parallel degree does not divide the {name}",
        field="tensor_parallel",
        message=f"{{name.tensor_parallel}} {{tensor_parallel}} does not divide the {{size}} {name} of {{model}}",
        detail=f"{size_of} = {{size}}, {{size}} % {{tensor_parallel}} = {{rest}}",
        hint="use {valid}, which divide both {size} and {num_devices} GPUs",
        values=values,
        why=f"Each rank of a 1D tensor-parallel group holds an equal share of the {name}.",
        source=_HYBRID,
        holds=lambda problem, columns: _divides(getattr(problem.model, size_of), columns),
    )


def _degree_values(problem: Problem, layout: Layout) -> dict[str, Any]:
    degree, depth = layout.tensor_parallel, layout.tensor_depth
    edges, mode = range(1 if layout.tensor_mode == "2.5d" else 2, 33), layout.tensor_mode
    degrees = [grid_ranks(mode, edge, depth) for edge in edges] if mode in GRID_MODES else divisors(problem.num_devices)
    valid = [d for d in degrees if problem.num_devices % d == 0]
    return {
        "tensor_parallel": degree,
        "tensor_mode": layout.tensor_mode,
        "tensor_depth": depth,
        "num_devices": problem.num_devices,
        "valid": listed(valid),
    }


def _shape_rule(rule_id: str, mode: TensorMode, shape: str, source: str) -> Rule:
    return Rule(
        id=rule_id,
        title=f"{mode} tensor parallelism without {shape}",
        field="tensor_parallel",
        message=f"{{name.tensor_parallel}} {{tensor_parallel}} is not {shape}, as mode {mode} needs",
        detail="{field.tensor_parallel} = {tensor_parallel}, {field.tensor_depth} = {tensor_depth}",
        hint="use {valid}, which divide {num_devices} GPUs",
        values=_degree_values,
        why="The ranks of a tensor-parallel group form a grid with equal edges.",
        source=source,
        holds=lambda problem, columns: ~columns.mode_is(mode) | makes_grid(columns),
    )


def _rows_before_last_rank(problem: Problem, columns: LayoutColumns) -> NDArray[np.int64]:
    degree = columns.tensor_parallel
    return padded_vocab(problem, columns) // degree * (degree - 1)


def _vocab_values(problem: Problem, layout: Layout) -> dict[str, Any]:
    padded, degree = int(padded_vocab(problem, columns_of(layout))[0]), layout.tensor_parallel
    smaller = [d for d in divisors(problem.num_devices) if d < degree and problem.model.num_heads % d == 0]
    kv_heads = problem.model.kv_heads
    return {
        "vocab_size": problem.model.vocab_size,
        "kv_heads": kv_heads,
        "kv_rest": kv_heads % degree,
        "valid_kv": valid_degrees(problem, kv_heads),
        "smaller": listed(smaller[-3:]),
        "before_last": int(_rows_before_last_rank(problem, columns_of(layout))[0]),
        "model": problem.model.name,
        "padded": padded,
        "tensor_parallel": degree,
        "rest": padded % degree,
        "stack": problem.stack.name,
        "valid": valid_degrees(problem, padded),
    }


RULES = (
    _division("TP001", "attention heads", "num_heads"),
    _division("TP002", "hidden units", "hidden_size"),
    _division("TP003", "feed-forward units", "ffn_hidden_size"),
    Rule(
        id="TP006",
        title="tensor parallel degree does not divide the heads of keys and values",
        field="tensor_parallel",
        message="{name.tensor_parallel} {tensor_parallel} does not divide the {kv_heads} heads of keys of {model}",
        detail="kv_heads = {kv_heads}, {kv_heads} % {tensor_parallel} = {kv_rest}",
        hint="use a {name.tensor_parallel} of {valid_kv}",
        values=_vocab_values,
        why="Each rank holds whole heads of keys and values; fewer heads than ranks are not copied.",
        source="colossalai 0.5.0: shardformer/policies/llama.py:98-104, mistral.py:61-66, qwen2.py:97-104; "
        "nanotron: models/llama.py, CausalSelfAttention",
        # As many heads of keys as of queries are judged as those.
        holds=lambda problem, columns: (
            np.full(len(columns), True)
            if problem.model.kv_heads == problem.model.num_heads
            else _divides(problem.model.kv_heads, columns)
        ),
    ),
    Rule(
        id="TP004",
        title="tensor parallel degree does not divide the vocabulary",
        field="tensor_parallel",
        message="{name.tensor_parallel} {tensor_parallel} does not divide the {padded} vocabulary rows of {model}",
        detail="stack {stack} makes it {padded} rows, {padded} % {tensor_parallel} = {rest}",
        hint="use {valid}, or a stack whose vocab_multiple pads the vocabulary",
        values=_vocab_values,
        why="Embedding and loss head are split by vocabulary rows, after the stack has padded them.",
        source="colossalai 0.5.0: shardformer/layer/embedding.py:303-305; stack spec: vocab_multiple",
        holds=lambda problem, columns: (
            columns.mode_is("none") | (padded_vocab(problem, columns) % columns.tensor_parallel == 0)
        ),
    ),
    Rule(
        id="TP005",
        about=("library",),
        title="a tensor parallel rank without a token of the vocabulary",
        field="tensor_parallel",
        message="{tensor_parallel} tensor-parallel ranks leave the last one without any of {vocab_size} tokens",
        detail="padded to {padded} rows, the ranks before it hold {before_last}",
        hint="use a {name.tensor_parallel} of {smaller}",
        values=_vocab_values,
        why="Padding is cut off again on the last rank; the library's loss head fails with none of its rows left.",
        source="colossalai 0.5.0: shardformer/layer/linear.py:734 (VocabParallelLMHead1D)",
        holds=lambda problem, columns: (
            ~columns.mode_is("1d") | (_rows_before_last_rank(problem, columns) < problem.model.vocab_size)
        ),
    ),
    Rule(
        id="TP010",
        about=("degrees",),
        title="tensor parallel degree without a tensor mode",
        field="tensor_mode",
        message="{name.tensor_parallel} {tensor_parallel} needs a {name.tensor_mode}, and the mode is none",
        detail="{field.tensor_parallel} = {tensor_parallel}, {field.tensor_mode} = {tensor_mode}",
        hint="set {field.tensor_mode} to 1d, or {field.tensor_parallel} to 1",
        values=_degree_values,
        why="Mode none leaves every weight whole, so there is nothing to divide over the ranks.",
        source="definition of the layout fields",
        holds=lambda problem, columns: ~columns.mode_is("none") | (columns.tensor_parallel == 1),
    ),
    _shape_rule("TP011", "2d", "a square", f"{_LEGACY}: initializer_2d.py:141"),
    _shape_rule("TP012", "3d", "a cube", f"{_LEGACY}: initializer_3d.py:306"),
    _shape_rule("TP013", "2.5d", "depth times a square", f"{_LEGACY}: initializer_2p5d.py:55,287"),
    Rule(
        id="TP014",
        title="depth outside 2.5d",
        field="tensor_depth",
        message="{name.tensor_depth} {tensor_depth} has no meaning in mode {tensor_mode}",
        detail="{field.tensor_depth} = {tensor_depth}, {field.tensor_mode} = {tensor_mode}",
        hint="set {field.tensor_depth} to 1, or {field.tensor_mode} to 2.5d",
        values=_degree_values,
        why="Only the 2.5D grid has a depth.",
        source="definition of the layout fields",
        holds=lambda problem, columns: columns.mode_is("2.5d") | (columns.tensor_depth == 1),
    ),
)
