"""Rules of model families: what a stack trains of them, and what it only seems to."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.degrees import GRID_MODES, divisors
from planner.layouts.layout import Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.layouts.stages import padded_vocab
from planner.rules.rule import Rule, listed
from planner.specs import Family


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    model, stack = problem.model, problem.stack
    multiple = max(stack.vocab_multiple, 1)
    return {
        "model": model.name,
        "stack": stack.name,
        "family": model.family or "no known family",
        "families": _listed(stack.families),
        "grid_families": _listed(stack.grid_families),
        "slice_families": _listed(stack.slice_families),
        "window_families": _listed(stack.window_pipeline_families),
        "zero_bubble_families": _listed(stack.zero_bubble_families),
        "zero_bubble_tied_families": _listed(stack.zero_bubble_tied_families),
        "schedule": layout.schedule,
        "seq_len": problem.seq_len,
        "window": model.attention.sliding_window,
        "tensor_mode": layout.tensor_mode,
        "tensor_parallel": layout.tensor_parallel,
        "vocab_size": model.vocab_size,
        "padded": int(padded_vocab(problem, columns_of(layout))[0]),
        "unpadded": listed([d for d in divisors(problem.num_devices) if model.vocab_size % (multiple * d) == 0]),
    }


def _listed(families: tuple[Family, ...]) -> str:
    return ", ".join(families) or "no family"


def _is_of(problem: Problem, columns: LayoutColumns, families: tuple[Family, ...]) -> NDArray[np.bool_]:
    return np.full(len(columns), problem.model.family in families)


def _keeps_window(problem: Problem) -> bool:
    window = problem.model.attention.sliding_window
    return not window or window >= problem.seq_len or problem.model.family in problem.stack.window_pipeline_families


RULES = (
    Rule(
        id="STK007",
        about=("runtime",),
        title="model the stack does not train",
        field="tensor_mode",
        message="stack {stack} does not train models with the parts of {model}",
        detail="{model} is of {family}; it trains {families}",
        hint="use a model of {families}, or another {field.stack}",
        values=_values,
        why="Parts that a library's classes do not have are left out, or trained as others.",
        source="stack spec: families",
        holds=lambda problem, columns: _is_of(problem, columns, problem.stack.families),
    ),
    Rule(
        id="TP007",
        about=("library",),
        title="vocabulary that is padded, under a loss head that is not",
        field="tensor_parallel",
        message="stack {stack} pads the {vocab_size} tokens of {model} to {padded}, and not its loss head",
        detail="{field.tensor_parallel} = {tensor_parallel}; {padded} - {vocab_size} rows have no place in the head",
        hint="use a {name.tensor_parallel} of {unpadded}",
        values=_values,
        why="The embedding has more rows than the head; the library fails in the loss, or where the head is divided.",
        source="colossalai 0.5.0: shardformer/policies/qwen2.py:428 (a plain Linear1D_Col); stack spec: "
        "unpadded_head_families",
        holds=lambda problem, columns: (
            ~_is_of(problem, columns, problem.stack.unpadded_head_families)
            | (padded_vocab(problem, columns) == problem.model.vocab_size)
        ),
    ),
    Rule(
        id="SP007",
        about=("runtime",),
        title="sequence slices the stack does not have for the family",
        field="sequence_parallel",
        message="stack {stack} drops sequence parallelism for models like {model}",
        detail="{model} is of {family}; it divides sequences of {slice_families}",
        hint="set {field.sequence_parallel} to false",
        values=_values,
        why="The library says so in a warning and trains on whole sequences, with none of the memory saved.",
        source="colossalai 0.5.0: shardformer/policies/mistral.py; stack spec: slice_families",
        holds=lambda problem, columns: (
            (columns.sequence_parallel == 0) | _is_of(problem, columns, problem.stack.slice_families)
        ),
    ),
    Rule(
        id="TP027",
        about=("runtime",),
        title="grid of a family that has none",
        field="tensor_mode",
        message="mode {tensor_mode} does not divide the layers of {model}",
        detail="stack {stack} has grids for {grid_families}",
        hint="use {field.mode} 1d",
        values=_values,
        why="The layers of the grid modes are those of GPT-2: LayerNorm, plain feed-forward, heads of their own keys.",
        source="colossalai 0.5.0: legacy/nn/layer has no gated feed-forward, RMSNorm or grouped queries; stack spec: "
        "grid_families",
        holds=lambda problem, columns: (
            ~columns.mode_is(*GRID_MODES) | _is_of(problem, columns, problem.stack.grid_families)
        ),
    ),
    Rule(
        id="PP012",
        about=("library",),
        title="sliding window that a pipeline loses",
        field="pipeline_parallel",
        message="in a pipeline stack {stack} does not keep the window of {window} tokens of {model}",
        detail="{seq_len} tokens > {window}; it keeps that of {window_families}",
        hint="use one stage, or {field.seq_len} {window}",
        values=_values,
        why="The stages make their masks anew, one token too wide or without a window: the loss is another one.",
        source="colossalai 0.5.0: shardformer/modeling/qwen2.py:146-168; stack spec: window_pipeline_families",
        holds=lambda problem, columns: (columns.pipeline_parallel == 1) | np.full(len(columns), _keeps_window(problem)),
    ),
    Rule(
        id="PP013",
        about=("library",),
        title="zero-bubble schedule of a family that has none",
        field="schedule",
        message="stack {stack} does not run models like {model} under schedule {schedule}",
        detail="{model} is of {family}; it runs {zero_bubble_families} under it",
        hint="use another {field.schedule}",
        values=_values,
        why="The last chunk is on the first stage: a policy that puts the final norm on the last one, or that has no "
        "product whose weight gradients can be put off, fails or trains another model.",
        source="colossalai 0.5.0: shardformer/policies/gpt2.py:311-312,452, shardformer/policies/qwen2.py:183; stack "
        "spec: zero_bubble_families",
        holds=lambda problem, columns: (
            ~columns.schedule_is("zbv") | _is_of(problem, columns, problem.stack.zero_bubble_families)
        ),
    ),
    Rule(
        id="PP014",
        about=("library",),
        title="zero-bubble schedule with tied embeddings of a family that cannot have them",
        field="schedule",
        message="stack {stack} does not run {model}, whose embeddings are tied, under schedule {schedule}",
        detail="{model} is of {family}; with tied embeddings it runs {zero_bubble_tied_families} under it",
        hint="use another {field.schedule}",
        values=_values,
        why="The first stage holds the embedding and the head, which are one tensor there; policies that share it "
        "with the last stage still fail.",
        source="colossalai 0.5.0: shardformer/policies/mistral.py:420-434 and mixtral.py:433-447, where llama.py:452 "
        "shares nothing; stack spec: zero_bubble_tied_families",
        holds=lambda problem, columns: (
            ~columns.schedule_is("zbv")
            | np.full(len(columns), not problem.model.tied_embeddings)
            | _is_of(problem, columns, problem.stack.zero_bubble_tied_families)
        ),
    ),
)
