"""A plan made small: the same kind of layout, on few processes and a model of a few thousand parameters."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.handover.work import STACK
from planner.layouts.degrees import GRID_MODES, grid_edge, grid_ranks
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.plans.plan import Plan, seal
from planner.rules import ids_about, violations
from planner.specs import AttentionSpec, ExpertsSpec, HardwareSpec, ModelSpec, PositionSpec, Precision, StackSpec
from planner.specs.files import load_spec

SEQ_LEN = 16
HEAD_SIZE = 8
LEAST_HEADS = 4
LEAST_VOCABULARY = 128
LEAST_EXPERTS = 4
SPARSE_EXPERTS = 64
"""Several for each token of a sequence."""
PADDING = 7
"""Tokens that the vocabulary lacks to a full multiple, where that of the plan is padded too."""
LARGEST_MICRO_BATCH = 256
LEAST_DEGREE = 2
"""Of what is divided: fewer parts are none."""
_OTHER_DEGREES = ("sequence_parallel_degree", "pipeline_parallel", "data_parallel")
"""Degrees beside tensor parallelism, from the last to be made smaller to the first."""


@dataclass(frozen=True)
class Shrunken:
    """A small plan with the layout of a large one."""

    plan: Plan
    changes: tuple[str, ...]
    """What of the layout is not that of the large plan, in words."""


def shrink(plan: Plan, *, max_processes: int, on_gpus: bool, own_precision: bool = False) -> Shrunken:
    """The same mode, degrees, schedule, ZeRO stage, recomputation and offload, as small as they can be.

    Degrees stay as they are if ``max_processes`` are enough; else data parallelism shrinks first,
    then the pipeline, then sequence and tensor parallelism, and none that was above 1 becomes 1. The precision is the
    one that shows most, fp32 or with ZeRO bf16, unless it is to be the plan's ``own_precision``.

    Raises:
        PlanError: not even the smallest such layout has so few processes, or it needs a GPU.
    """
    stack = load_spec(STACK, StackSpec)
    stack = msgspec.structs.replace(stack, vocab_multiple=plan.problem.stack.vocab_multiple)
    degrees = _fewer_degrees(plan.layout, max_processes)
    precision = plan.layout.precision if own_precision else "fp32" if plan.layout.zero_stage == 0 else "bf16"
    layout = _small_layout(degrees, plan.layout, precision)
    layout = msgspec.structs.replace(layout, recompute_pointwise=layout.recompute_pointwise and on_gpus)
    problem = Problem(
        model=_small_model(plan, layout),
        hardware=_hardware(plan, on_gpus=on_gpus),
        stack=stack,
        num_devices=layout.num_devices,
        devices_per_node=layout.num_devices,
        global_batch=layout.global_batch,
        seq_len=_seq_len(layout),
        precision=layout.precision,
        allow_offload=layout.offload.tier,
        compiled=plan.problem.compiled and on_gpus,
    )
    problem, layout = _with_least_micro_batch(problem, layout, at_least=min(plan.layout.micro_batch, 2))
    _refuse_broken(problem, layout)
    stages = _kept_stages(plan.layout, layout.pipeline_parallel)
    predicted = msgspec.structs.replace(plan.predicted, stages=tuple(plan.predicted.stages[one] for one in stages))
    small = msgspec.structs.replace(plan, problem=problem, layout=layout, predicted=predicted)
    return Shrunken(plan=seal(small), changes=tuple(_changes(plan.layout, layout)))


def _fewer_degrees(layout: Layout, max_processes: int) -> Layout:
    if layout.num_devices <= max_processes:
        return layout
    least_tensor, least_depth = _least_tensor(layout)
    # Of the other degrees: what their least take of the processes.
    others = math.prod(_least(layout, degree) for degree in _OTHER_DEGREES)
    least = least_tensor * others
    if least > max_processes:
        raise usage_error(
            f"the layout has {layout.num_devices} ranks, and {least} are the fewest that keep its kinds of parallelism",
            location="--max-processes",
            hint=f"`--max-processes {least}`, or {layout.num_devices} for all its ranks",
        )
    tensor, depth = layout.tensor_parallel, layout.tensor_depth
    if tensor * others > max_processes:
        tensor, depth = _largest_tensor(layout, max_processes // others), layout.tensor_depth
        if tensor == least_tensor:
            depth = least_depth
    degrees = {"tensor_parallel": tensor, "tensor_depth": depth}
    left = max_processes // tensor
    for degree in _OTHER_DEGREES:
        # Each has what is left when those after it are at their least.
        own = getattr(layout, degree)
        others //= _least(layout, degree)
        degrees[degree] = min(own, left // others)
        left //= degrees[degree]
    return _with_fewer_experts(msgspec.structs.replace(layout, **degrees), layout)


def _least(layout: Layout, degree: str) -> int:
    """The smallest of a degree beside tensor parallelism that still divides what it divides.

    Ranks that divide experts are ranks of data parallelism, as are those that hold copies of the same ones.
    """
    own: int = getattr(layout, degree)
    if degree != "data_parallel":
        return min(own, LEAST_DEGREE)
    experts = layout.expert_parallel
    return min(experts, LEAST_DEGREE) * min(own // experts, LEAST_DEGREE)


def _with_fewer_experts(small: Layout, full: Layout) -> Layout:
    """Experts over as few ranks as divide them, or over all of data parallelism where none had a copy."""
    if full.expert_parallel == full.data_parallel:
        return msgspec.structs.replace(small, expert_parallel=small.data_parallel)
    degree = min(full.expert_parallel, LEAST_DEGREE)
    data = small.data_parallel // degree * degree
    return msgspec.structs.replace(small, expert_parallel=degree, data_parallel=data)


def _least_tensor(layout: Layout) -> tuple[int, int]:
    """The smallest degree and depth of the mode that still divides along every axis that is divided."""
    if layout.tensor_parallel == 1:
        return 1, 1
    depth = min(LEAST_DEGREE, layout.tensor_depth)
    if layout.tensor_mode not in GRID_MODES:
        return LEAST_DEGREE, depth
    return grid_ranks(layout.tensor_mode, min(LEAST_DEGREE, _edge(layout)), depth), depth


def _edge(layout: Layout) -> int:
    edge: int = grid_edge(layout.tensor_mode, layout.tensor_parallel, layout.tensor_depth)
    return edge


def _largest_tensor(layout: Layout, most: int) -> int:
    """The largest 1D degree up to ``most`` that divides the plan's; grids go to their least."""
    if layout.tensor_mode != "1d":
        return _least_tensor(layout)[0]
    return max(d for d in range(2, most + 1) if layout.tensor_parallel % d == 0 or d == LEAST_DEGREE)


def _small_layout(degrees: Layout, full: Layout, precision: Precision) -> Layout:
    kept = _kept_stages(full, degrees.pipeline_parallel)
    layers = _small_layers(full, kept)
    recomputed = tuple(
        _small_recompute(full.recompute_layers_per_stage[stage], full.layers_per_stage[stage], own)
        for stage, own in zip(kept, layers, strict=True)
    )
    return msgspec.structs.replace(
        degrees,
        layers_per_stage=layers,
        recompute_layers_per_stage=recomputed,
        num_microbatches=_small_microbatches(full, degrees.pipeline_parallel),
        micro_batch=1,
        precision=precision,
    )


def _kept_stages(full: Layout, count: int) -> list[int]:
    """``count`` stages: the first, one of another kind, the last, then any, in their order."""
    kinds = list(zip(full.layers_per_stage, full.recompute_layers_per_stage, strict=True))
    others = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
    order = dict.fromkeys([0, *others[1:2], len(kinds) - 1, *others, *range(len(kinds))])
    return sorted(list(order)[:count])


def _small_layers(full: Layout, kept: list[int]) -> tuple[int, ...]:
    """Layers that keep which stages have more than others, whose chunks and recomputation still differ."""
    if full.num_model_chunks > 1:
        return (full.num_model_chunks,) * len(kept)
    pairs = [(full.layers_per_stage[stage], full.recompute_layers_per_stage[stage]) for stage in kept]
    partly = any(0 < recomputed < layers for layers, recomputed in pairs)
    least = 2 if partly or len(kept) == 1 else 1
    sizes = sorted({layers for layers, _ in pairs})
    layers = tuple(least + min(sizes.index(layers), 2) for layers, _ in pairs)
    return tuple(min(small, full.layers_per_stage[stage]) for small, stage in zip(layers, kept, strict=True))


def _small_recompute(recomputed: int, layers: int, own: int) -> int:
    """Of ``own`` layers, as many as before: none, all, or the nearest share that is neither."""
    if recomputed in (0, layers) or own == 1:
        return own if recomputed == layers else 0
    return min(max(round(recomputed / layers * own), 1), own - 1)


def _small_microbatches(full: Layout, stages: int) -> int:
    """One, as many as there are stages, or more than that, as in the plan."""
    if full.num_microbatches == 1:
        return 1
    least = max(2, stages) if full.pipeline_parallel == 1 else stages
    if full.num_microbatches == full.pipeline_parallel:
        return least
    return 2 * stages if full.num_model_chunks > 1 else max(least, stages + 1)


def _small_model(plan: Plan, layout: Layout) -> ModelSpec:
    model, edge = plan.problem.model, _edge(layout)
    unit = layout.sequence_parallel_degree * (layout.tensor_parallel if layout.tensor_mode == "1d" else edge**2)
    grouped = model.kv_heads < model.num_heads
    heads = unit * max(math.ceil(LEAST_HEADS / unit), 2 if grouped else 1)
    rows = plan.problem.stack.vocab_multiple * layout.tensor_parallel
    vocabulary = rows * math.ceil(LEAST_VOCABULARY / rows)
    full_rows = plan.problem.stack.vocab_multiple * plan.layout.tensor_parallel
    if model.vocab_size % full_rows and plan.problem.stack.vocab_multiple > PADDING:
        vocabulary -= PADDING
    seq_len = _seq_len(layout)
    return msgspec.structs.replace(
        model,
        title=f"{model.title}, made small",
        num_layers=sum(layout.layers_per_stage),
        hidden_size=heads * HEAD_SIZE,
        num_heads=heads,
        ffn_hidden_size=heads * HEAD_SIZE * max(1, round(model.ffn_hidden_size / model.hidden_size)),
        vocab_size=vocabulary,
        max_seq_len=seq_len + (SEQ_LEN if plan.problem.seq_len < model.max_seq_len else 0),
        dropout=0.0,
        seq_len=seq_len,
        global_batch=layout.global_batch,
        precision=layout.precision,
        attention=_small_attention(plan, seq_len, kv_heads=_kv_heads(model, heads, unit) if grouped else None),
        positions=_small_positions(plan, seq_len),
        experts=_small_experts(model, layout, ffn_hidden_size=heads * HEAD_SIZE),
    )


def _small_experts(model: ModelSpec, layout: Layout, ffn_hidden_size: int) -> ExpertsSpec | None:
    """As many as their ranks divide, and where they have copies so many that some copy gets no token."""
    if model.experts is None:
        return None
    unit = math.lcm(layout.expert_parallel, layout.tensor_parallel)
    least = SPARSE_EXPERTS if layout.data_parallel > layout.expert_parallel > 1 else LEAST_EXPERTS
    top_k = min(model.experts.top_k, 2)
    return msgspec.structs.replace(
        model.experts, count=unit * math.ceil(least / unit), top_k=top_k, ffn_hidden_size=ffn_hidden_size, load=()
    )


def _small_attention(plan: Plan, seq_len: int, kv_heads: int | None) -> AttentionSpec:
    """Heads that are wider or narrower than the hidden size over their number, and windows that end, still do."""
    model, own = plan.problem.model, plan.problem.model.attention
    window = own.sliding_window
    if window is not None:
        window = seq_len // 2 if window < plan.problem.seq_len else 2 * seq_len
    size = own.head_size
    if size is not None:
        size = max(2, HEAD_SIZE * model.query_size // model.hidden_size // 2 * 2)
    return msgspec.structs.replace(own, kv_heads=kv_heads, head_size=size, sliding_window=window)


def _kv_heads(model: ModelSpec, heads: int, unit: int) -> int:
    """Fewer than ``heads`` that ``unit`` ranks divide, and more than one if the plan's model has more."""
    return 2 * unit if model.kv_heads > 1 and heads >= 4 * unit else unit


def _small_positions(plan: Plan, seq_len: int) -> PositionSpec:
    own = plan.problem.model.positions
    if own.original_max_seq_len is None:
        return own
    original = max(1, round(own.original_max_seq_len * seq_len / plan.problem.seq_len))
    return msgspec.structs.replace(own, original_max_seq_len=original)


def _seq_len(layout: Layout) -> int:
    slices = layout.tensor_parallel * layout.sequence_parallel_degree
    return slices * math.ceil(SEQ_LEN / slices)


def _hardware(plan: Plan, *, on_gpus: bool) -> HardwareSpec:
    if not on_gpus:
        return load_spec("local-cpu", HardwareSpec)
    own = plan.problem.hardware
    card = own if own.device == "cuda" else load_spec("a100-40g", HardwareSpec)
    return msgspec.structs.replace(card, device_names=("",))  # any card will do


def _with_least_micro_batch(problem: Problem, layout: Layout, *, at_least: int) -> tuple[Problem, Layout]:
    """The fewest sequences that keep the rules; the first try if none does."""
    tries = [_with_micro_batch(problem, layout, size) for size in range(at_least, LARGEST_MICRO_BATCH + 1)]
    return next((one for one in tries if not violations(*one)), tries[0])


def _with_micro_batch(problem: Problem, layout: Layout, size: int) -> tuple[Problem, Layout]:
    tried = msgspec.structs.replace(layout, micro_batch=size)
    model = msgspec.structs.replace(problem.model, global_batch=tried.global_batch)
    return msgspec.structs.replace(problem, model=model, global_batch=tried.global_batch), tried


def _refuse_broken(problem: Problem, layout: Layout) -> None:
    broken = violations(problem, layout)
    if not broken:
        return
    for_gpus = next((one.rule for one in broken if one.rule in ids_about("gpu")), None)
    if for_gpus is not None:
        needs = Diagnostic(
            rule=for_gpus,
            message="ZeRO stage 3 runs on GPUs only, so that it cannot be verified on processor cores",
            hint="`--on-gpus` on a machine with GPUs",
        )
        raise PlanError(needs, exit_code=ExitCode.NEGATIVE)
    raise PlanError(*broken, exit_code=ExitCode.NEGATIVE)


def _changes(full: Layout, small: Layout) -> Iterator[str]:
    for field in (*reversed(_OTHER_DEGREES), "expert_parallel", "tensor_parallel", "tensor_depth"):
        before, after = getattr(full, field), getattr(small, field)
        if before != after:
            yield f"{field.replace('_', ' ')} {after} instead of {before}"
    if full.precision != small.precision:
        yield f"{small.precision} instead of {full.precision}"
