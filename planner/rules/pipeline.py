"""Rules of pipeline parallelism, stages, schedules and recomputation."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts import zero_bubble
from planner.layouts.degrees import divisors
from planner.layouts.division import END_LAYERS, divides_evenly, has_chunks, has_to_be_even, is_even, most_chunks
from planner.layouts.layout import (
    FREE_RECOMPUTE,
    LISTED_RECOMPUTE,
    NO_RECOMPUTE,
    SOME_RECOMPUTE,
    Layout,
    LayoutColumns,
    columns_of,
)
from planner.layouts.pins import layers_to_recompute, listed_recompute
from planner.layouts.problem import Problem
from planner.rules.rule import Rule, listed

_HYBRID = "colossalai 0.5.0: booster/plugin/hybrid_parallel_plugin.py"
_STAGES = "colossalai 0.5.0: pipeline/stage_manager.py:41,216"


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    layers, stages = problem.model.num_layers, layout.pipeline_parallel
    wholes = range(layers, layers + (END_LAYERS if problem.stack.ends_as_layers else 0) + 1)
    recomputed = layout.recompute_layers_per_stage
    least = 2 * stages * _together(problem, layout.num_model_chunks)
    slots = [d for d in divisors(problem.num_devices) if any(whole % d == 0 for whole in wholes)]
    return {
        "num_layers": layers,
        "least": layers_to_recompute(recomputed) if recomputed == listed_recompute(problem.pins) else least,
        "half": layers // 2 // _together(problem, layout.num_model_chunks),
        "pipeline_parallel": stages,
        "chunks": layout.num_model_chunks,
        "schedule": layout.schedule,
        "num_microbatches": layout.num_microbatches,
        "model": problem.model.name,
        "stack": problem.stack.name,
        "even": listed(slots),
        "recompute_rule": problem.stack.recompute,
        "recompute_hint": _RECOMPUTE_HINTS[problem.stack.recompute],
        "layers_per_stage": list(layout.layers_per_stage),
        "total": sum(layout.layers_per_stage),
        "recompute": list(recomputed),
        "next_microbatches": -(-layout.num_microbatches // stages) * stages,
    }


_RECOMPUTE_HINTS = {
    "none": "recompute no layer",
    "all-or-nothing": "recompute no layer, or all of them",
    "alike": "recompute as many layers of every stage, and of every chunk",
    "per-layer": "give one number per stage, at most the layers it has",
}


def _chunks_fit(columns: LayoutColumns) -> NDArray[np.bool_]:
    chunks, interleaved = columns.num_model_chunks, columns.schedule_is("interleaved")
    fixed = np.where(columns.schedule_is("zbv"), zero_bubble.CHUNKS, 1)
    return np.where(interleaved, chunks > 1, chunks == fixed)


def _recompute_fits(problem: Problem, layout: Layout) -> bool:
    layers, recompute = layout.layers_per_stage, layout.recompute_layers_per_stage
    if len(recompute) != len(layers) or any(r > n for r, n in zip(recompute, layers, strict=True)):
        return False
    if problem.stack.recompute == "all-or-nothing":
        return not any(recompute) or recompute == layers
    if problem.stack.recompute == "alike":
        return recompute == layers or (len(set(recompute)) == 1 and recompute[0] % layout.num_model_chunks == 0)
    return problem.stack.recompute == "per-layer" or not any(recompute)


def _together(problem: Problem, chunks: Any) -> Any:
    """Layers of a stage that recompute together: one of each chunk where all chunks recompute alike."""
    return chunks if problem.stack.recompute == "alike" else 1


def _recompute_known(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    partial = np.isin(columns.recompute, (SOME_RECOMPUTE, FREE_RECOMPUTE))
    known = ~partial | (problem.stack.recompute != "all-or-nothing")
    listed = listed_recompute(problem.pins)
    return known if listed is None else np.where(_is_listed(columns), _list_known(problem, columns, listed), known)


def _is_listed(columns: LayoutColumns) -> NDArray[np.bool_]:
    return columns.recompute == LISTED_RECOMPUTE


def _list_known(problem: Problem, columns: LayoutColumns, listed: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where the stack can set a pinned list: stages with the listed layers and no others recompute all of theirs."""
    everywhere = np.ones(len(columns), dtype=bool)
    if sum(listed) == problem.model.num_layers or problem.stack.recompute in ("per-layer", "none"):
        return everywhere
    alike = problem.stack.recompute == "alike" and len(set(listed)) == 1
    return everywhere & alike & (listed[0] % columns.num_model_chunks == 0)


def _long_enough(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where the model has the layers that stages recompute, and one that they do not where they recompute some.

    A chunk that lacks a layer, whose place one of the ends takes, recomputes its only one beside those of the others.
    """
    twice = 2 * columns.pipeline_parallel * _together(problem, columns.num_model_chunks)
    alike = problem.stack.recompute == "alike"
    num_layers = most_chunks(problem, columns) if alike else problem.model.num_layers
    long_enough = (columns.recompute != SOME_RECOMPUTE) | (twice <= num_layers)
    listed = listed_recompute(problem.pins)
    if listed is None:
        return np.asarray(long_enough)
    return np.asarray(long_enough & (~_is_listed(columns) | (layers_to_recompute(listed) <= problem.model.num_layers)))


def _fits_v(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where stages of a V do not recompute as a pin lists with none on one of them."""
    listed = listed_recompute(problem.pins)
    return ~(_is_listed(columns) & columns.schedule_is("zbv")) | (listed is None or all(listed))


RULES = (
    Rule(
        id="PP001",
        about=("engine",),
        title="more stages than layers",
        field="pipeline_parallel",
        message="{pipeline_parallel} stages x {chunks} chunks need as many layers, and {model} has {num_layers}",
        detail="{pipeline_parallel} * {chunks} > {num_layers}",
        hint="use at most {num_layers} stages",
        values=_values,
        why="A stage without a layer would only forward its input; the library would build one without a word.",
        source=f"{_STAGES} has no such check, so gptplan makes it",
        holds=lambda problem, columns: (
            columns.pipeline_parallel * columns.num_model_chunks <= most_chunks(problem, columns)
        ),
    ),
    Rule(
        id="PP002",
        title="schedule and stages contradict each other",
        field="schedule",
        message="schedule {schedule} does not go with {pipeline_parallel} pipeline stages",
        detail="{field.schedule} = {schedule}, {field.pipeline_parallel} = {pipeline_parallel}",
        hint="use schedule none for one stage, and 1f1b, interleaved or zbv for more",
        values=_values,
        why="One stage has nothing to schedule; several stages need a schedule.",
        source=f"{_HYBRID}:1124",
        holds=lambda problem, columns: columns.schedule_is("none") == (columns.pipeline_parallel == 1),
    ),
    Rule(
        id="PP003",
        title="model chunks and schedule contradict each other",
        field="num_model_chunks",
        message="{chunks} model chunks do not go with schedule {schedule}",
        detail="{field.num_model_chunks} = {chunks}, {field.schedule} = {schedule}",
        hint="use 1 chunk with none and 1f1b, 2 or more with interleaved, and 2 with zbv",
        values=_values,
        why="1F1B gives every stage one run of layers, the interleaved schedule several, and the V of zbv one on its "
        "way down and one on its way up.",
        source=f"{_HYBRID}:1125-1130,1151",
        holds=lambda problem, columns: _chunks_fit(columns),
    ),
    Rule(
        id="PP004",
        about=("engine", "batch", "degrees", "fill"),
        title="fewer micro batches than stages",
        field="num_microbatches",
        message="{field.num_microbatches} {num_microbatches} cannot fill {pipeline_parallel} pipeline stages",
        detail="{num_microbatches} < {pipeline_parallel}",
        hint="use at least {pipeline_parallel} micro batches, or fewer stages",
        values=_values,
        why="The schedule's warm-up hands one micro batch to every stage.",
        source="colossalai 0.5.0: pipeline/schedule/one_f_one_b.py:67-107",
        holds=lambda problem, columns: (
            (columns.pipeline_parallel == 1) | (columns.num_microbatches >= columns.pipeline_parallel)
        ),
    ),
    Rule(
        id="PP005",
        about=("engine", "batch"),
        title="micro batches are not a multiple of the stages",
        field="num_microbatches",
        message="schedule {schedule} needs micro batches in multiples of {pipeline_parallel}, not {num_microbatches}",
        detail="{num_microbatches} % {pipeline_parallel} != 0",
        hint="use {next_microbatches} micro batches, or schedule 1f1b",
        values=_values,
        why="The interleaved schedule rotates groups of as many micro batches as there are stages; the library asks "
        "the same of zbv.",
        source="colossalai 0.5.0: pipeline/schedule/interleaved_pp.py:88-90, zero_bubble_pp.py:196-198",
        holds=lambda problem, columns: (
            ~has_chunks(columns) | (columns.num_microbatches % columns.pipeline_parallel == 0)
        ),
    ),
    Rule(
        id="PP006",
        about=("degrees",),
        title="layers do not divide evenly over the stages",
        field="pipeline_parallel",
        message="{num_layers} layers do not divide over {pipeline_parallel} stages x {chunks} chunks",
        detail="{num_layers} % ({pipeline_parallel} * {chunks}) != 0",
        hint="use {even} stages",
        values=_values,
        why="This stack, or a schedule with chunks, gives every stage the same number of layers; where the stack "
        "can, embedding and loss head count as a layer each.",
        source="Megatron-LM arguments: num_layers divides by pipeline size and virtual stages, and with "
        "--account-for-embedding-in-pipeline-split and --account-for-loss-in-pipeline-split one or two more do",
        holds=lambda problem, columns: ~has_to_be_even(problem, columns) | divides_evenly(problem, columns),
    ),
    Rule(
        id="PP010",
        about=("layers-per-stage",),
        title="layers per stage do not match the pipeline",
        field="layers_per_stage",
        message="{field.layers_per_stage} has to name {pipeline_parallel} stages of 1 layer or more, "
        "{num_layers} in all",
        detail="{layers_per_stage} has the sum {total}",
        hint="give one number per stage; gptplan chooses them when they are not pinned",
        values=_values,
        why="Every layer belongs to exactly one stage and no stage may be empty.",
        source=_STAGES,
        holds_layout=lambda problem, layout: (
            len(layout.layers_per_stage) == layout.pipeline_parallel
            and sum(layout.layers_per_stage) == problem.model.num_layers
            and min(layout.layers_per_stage) >= (0 if problem.stack.empty_stages else 1)
        ),
    ),
    Rule(
        id="PP011",
        about=("layers-per-stage", "even-stages"),
        title="stages hold different numbers of layers",
        field="layers_per_stage",
        message="schedule {schedule} of stack {stack} gives every stage the same number of layers",
        detail="{field.layers_per_stage} = {layers_per_stage}",
        hint="use {even} stages",
        values=_values,
        why="The stack, or its schedule with chunks, has no setting for layers per stage, other than to count "
        "embedding and loss head as a layer each where the stack can.",
        source=f"{_STAGES}; stack spec: uneven_stages, ends_as_layers",
        holds_layout=lambda problem, layout: (
            (problem.stack.uneven_stages and not has_chunks(columns_of(layout))[0])
            or is_even(problem, layout.layers_per_stage, layout.num_model_chunks)
        ),
    ),
    Rule(
        id="RC001",
        about=("runtime", "layers-per-stage", "recompute"),
        title="recomputed layers the stack cannot set",
        field="recompute_layers_per_stage",
        message="stack {stack} recomputes {recompute_rule}, not {recompute} of {layers_per_stage} layers",
        detail="recompute_layers_per_stage = {recompute}",
        hint="{recompute_hint}",
        values=_values,
        why="A stage recomputes as many of its layers as the stack can set, and never more than it has.",
        source="stack spec: recompute",
        holds=_recompute_known,
        holds_layout=_recompute_fits,
    ),
    Rule(
        id="RC002",
        about=("runtime",),
        title="the stack does not recompute",
        field="recompute_layers_per_stage",
        message="stack {stack} cannot recompute activations",
        detail="stack: recompute = {recompute_rule}",
        hint="recompute no layer",
        values=_values,
        why="The stack has no activation checkpointing.",
        source="stack spec: recompute",
        holds=lambda problem, columns: (columns.recompute == NO_RECOMPUTE) | (problem.stack.recompute != "none"),
    ),
    Rule(
        id="RC003",
        about=("runtime",),
        title="stages too short to recompute some of their layers",
        field="recompute_layers_per_stage",
        message="{pipeline_parallel} stages that recompute some of their layers need {least} layers, not {num_layers}",
        detail="{least} > {num_layers}",
        hint="recompute none or all, or use at most {half} stages",
        values=_values,
        why="Some and not all layers of a stage can only recompute where it has two or more; so has each of its chunks "
        "where all recompute alike. A stage has as many as a pin lists for it.",
        source="definition of the layout fields",
        holds=_long_enough,
    ),
    Rule(
        id="RC004",
        about=("library", "recompute"),
        title="stages of a V that recompute beside others that do not",
        field="recompute_layers_per_stage",
        message="under schedule {schedule} all stages recompute a layer or none does, not {recompute} of "
        "{layers_per_stage}",
        detail="recompute_layers_per_stage = {recompute}",
        hint="recompute a layer or more of every stage, or none at all",
        values=_values,
        why="Weight gradients that are put off keep the inputs and output gradients of their products, about what "
        "recomputation frees; where stages recompute, all of them compute those gradients at once.",
        source="colossalai 0.5.0: pipeline/weight_grad_store.py:12-20; planner/layouts/zero_bubble.py: node_order",
        holds=_fits_v,
        holds_layout=lambda problem, layout: (
            layout.schedule != "zbv"
            or all(layout.recompute_layers_per_stage)
            or not any(layout.recompute_layers_per_stage)
        ),
    ),
)
