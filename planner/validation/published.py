"""Rows of published tables: one line a run, blanks where the source says nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from planner.cost_model.flops import model_flops_per_step
from planner.cost_model.parameters import layer_parameters
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, Offload
from planner.layouts.problem import Problem
from planner.specs import HardwareSpec, ModelSpec, Precision, Schedule, StackSpec
from planner.specs.files import load_spec
from planner.specs.units import GIB, MIB, Bytes
from planner.validation import cases
from planner.validation.attention import attention_traffic, possible, stated_attention
from planner.validation.cases import OUTCOMES, Assumptions, Case, Measured, MemoryKind, SkippedRow
from planner.validation.facts import KnownFacts, SetFacts, builtin_facts, filled_value
from planner.validation.machines import hardware_of
from planner.validation.tables import Row

SELECTIVE = "selective"
"""Megatron's recomputation of attention alone: scores are made again in backward. Flash attention always does."""
PRINTED_GB = 1000 * MIB
"""A GB that was read off nvidia-smi, which counts in MiB: cards of 79.15 GiB are said to hold 80 of them."""
_OPTIMIZER_OFFLOADED = {"cpu", "opt", "opt,param", "cpu(opt+param)"}
_PARAMETERS_OFFLOADED = {"opt,param", "cpu(opt+param)"}


_UNKNOWN_PARTS = ("nemotron", "rope", "rotary", "swiglu", "mixtral", "grok", "deepseek", "gpt-oss", "moe", "qwen3")
"""Words in a model's name that mark parts, or mixtures of them, that are told of built-in models alone."""
_EVEN = "routers are made to send equally many tokens to every rank, as benchmarks do; degree of expert parallelism: ep"


_OPTIONS = {
    "cross-entropy-loss-fusion": "a fused loss (cross-entropy-loss-fusion) is not modelled",
    "defer-embedding-wgrad-compute": "a deferred gradient of the head (defer-embedding-wgrad-compute) is not modelled",
    "decoder-last-pipeline-num-layers": "layers of the last stage not stated (decoder-last-pipeline-num-layers)",
}
"""Options that a row's note names, and why it cannot be replayed with them."""


def _blank(column: str) -> Callable[[Row], bool]:
    return lambda row: not row.text(column)


REASONS: tuple[tuple[str, Callable[[Row], bool]], ...] = (
    ("rests partly on recollection (from_memory=yes)", lambda row: row.text("from_memory") == "yes"),
    *((f"{column} not stated", _blank(column)) for column in ("layers", "hidden", "seq_len", "global_batch")),
    *((f"{column} not stated", _blank(column)) for column in ("n_gpus", "tp", "pp", "dp")),
    (
        "a mixture of experts, or parts of a model that are not told",
        lambda row: (
            any(word in row.text("model").lower() for word in _UNKNOWN_PARTS) and cases.expert_model(row) is None
        ),
    ),
    ("ep not stated", lambda row: cases.expert_model(row) is not None and not row.text("ep")),
    (
        "grouped-query attention of a model whose other parts are not told",
        lambda row: row.count("kv_heads") not in (None, row.count("heads")) and cases.family_of(row) is None,
    ),
    (
        "its own source doubts the memory reading (suspect)",
        lambda row: "suspect" in row.text("note") and row.number("measured_mem_gib") is not None,
    ),
    (
        "recomputation of single operators or layers is not modelled",
        lambda row: row.text("recompute").startswith("selective("),
    ),
    *((reason, lambda row, option=option: option in row.text("note")) for option, reason in _OPTIONS.items()),
    (
        "interleaved groups of other than PP micro batches (tunable_overlap) are not modelled",
        lambda row: row.text("model").endswith("tunable_overlap"),
    ),
    (
        "sharding within a node and replication between nodes is not modelled",
        lambda row: row.text("zero_stage") == "hybrid",
    ),
)


def check_replayable(row: Row) -> None:
    """Raise :class:`SkippedRow` with the first reason that holds."""
    for reason, holds in REASONS:
        if holds(row):
            raise SkippedRow(reason)


def case_of(row: Row, known: KnownFacts | None = None) -> Case:
    """Replayable form of one row, whose blanks are filled by ``known``, the built-in facts unless told.

    Raises:
        SkippedRow: it cannot be replayed, with the reason.
        PlanError: a cell is no number or no known word.
    """
    check_replayable(row)
    known = known or builtin_facts()
    facts, assumed = _facts(row, known), Assumptions()
    cases.precision_of(row.text("precision"))  # a format that is not modelled is the reason to tell, on any card
    hardware = _hardware(row, facts, assumed, known)
    facts = possible(facts, hardware)
    filled = _filled(row, facts, assumed)
    model = _model(row, filled, assumed)
    if filled.precision not in hardware.peak_flops_per_s:
        raise SkippedRow(f"{hardware.name} has no {filled.precision}")
    layout = _layout(row, filled, model, assumed, facts)
    problem = cases.problem_of(row, model=model, hardware=hardware, stack=filled.stack, layout=layout)
    measured = _measured(row, problem, assumed, facts)
    return Case(problem=problem, layout=layout, measured=measured, assumptions=tuple(assumed.stated))


def _facts(row: Row, known: KnownFacts) -> SetFacts:
    """The facts of a row and its set, or of other software for models with Llama's parts."""
    facts = known.of_row(row)
    parts = cases.family_of(row) or cases.expert_model(row)
    return known.of(facts.llama) if facts.llama and parts else facts


@dataclass(frozen=True, kw_only=True)
class _Filled:
    """What a row states or the facts of its set fill in."""

    precision: Precision
    recompute: bool
    zero_stage: int
    vocab: int
    micro_batch: int
    dropout: float
    stack: StackSpec


def _filled(row: Row, facts: SetFacts, assumed: Assumptions) -> _Filled:
    """The row's own cells, else the facts of its set; every filling is noted."""
    fill = partial(filled_value, row, facts, assumed)
    stated = row.choice("recompute", ("full", "none", SELECTIVE))
    recompute = stated if facts.states_recompute else ""
    precision = fill("precision", cases.precision_of(row.text("precision")), facts.precision)
    zero_stage = fill("zero_stage", row.whole("zero_stage"), facts.zero_stage)
    other = facts.bf16_stack if precision == "bf16" else None
    other = facts.zero3_stack if other is None and zero_stage == SHARDS_WEIGHTS else other
    stack = load_spec(fill("stack", None, other or facts.stack), StackSpec)
    attention: str = fill("attention", stated_attention(row), facts.attention or stack.activations.attention)
    if recompute == SELECTIVE and attention == "materialised":
        attention = "recomputed"
    if recompute == SELECTIVE and attention == "flash" and cases.recomputed_share(row) is not None:
        stack = msgspec.structs.replace(stack, recompute="per-layer")
    activations = msgspec.structs.replace(stack.activations, attention=attention)
    traffic = attention_traffic(stack, attention, assumed)
    traffic = msgspec.structs.replace(traffic, blocking_launches=facts.blocking_launches)
    if facts.blocking_launches:
        fill("blocking_launches", None, facts.blocking_launches)
    for waits in ("message_host_s", "collective_rank_host_s", "collective_far_rank_host_s"):
        if seconds := getattr(facts, waits):
            traffic = msgspec.structs.replace(traffic, **{waits: fill(waits, None, seconds)})
    if not facts.pads_whole_vocab:
        fill("pads_whole_vocab", None, facts.pads_whole_vocab)
    return _Filled(
        precision=precision,
        recompute=fill("recompute", recompute or None, facts.recompute) == "full",
        zero_stage=zero_stage,
        vocab=fill("vocab", row.count("vocab"), facts.vocab),
        micro_batch=row.count("micro_batch") or fill("micro_batch", None, _micro_batch(row, facts)),
        dropout=fill("dropout", None, facts.dropout),
        stack=msgspec.structs.replace(
            stack, activations=activations, traffic=traffic, pads_whole_vocab=facts.pads_whole_vocab
        ),
    )


def _micro_batch(row: Row, facts: SetFacts) -> int:
    if facts.micro_batch is None:
        raise SkippedRow("micro_batch not stated")
    if facts.micro_batch == "whole":
        return row.needed_count("global_batch") // row.needed_count("dp") or 1
    return facts.micro_batch


def _hardware(row: Row, facts: SetFacts, assumed: Assumptions, known: KnownFacts) -> HardwareSpec:
    hardware = hardware_of(row, facts.card_gb, assumed, known, facts.network)
    if "deterministic-mode" not in row.text("note"):
        return hardware
    assumed.note("deterministic-mode: CUBLAS_WORKSPACE_CONFIG=:4096:8, workspaces of 32 MiB on any card")
    return msgspec.structs.replace(hardware, workspace_bytes=Bytes(32 * MIB))


def _model(row: Row, filled: _Filled, assumed: Assumptions) -> ModelSpec:
    known, heads = cases.expert_model(row), row.count("heads")
    if known is not None:
        assumed.note(_EVEN)
        return cases.evenly_routed(row, known, filled.precision)
    if heads is None:
        heads = cases.head_count(row.needed_count("hidden"), row.needed_count("tp"))
        assumed.note("heads not stated: as many as TP divides, of the size nearest to 128")
    return cases.model_of(
        row,
        vocab=filled.vocab,
        num_heads=heads,
        dropout=filled.dropout,
        precision=filled.precision,
        ffn_hidden=row.count("ffn_hidden"),
    )


def _layout(row: Row, filled: _Filled, model: ModelSpec, assumed: Assumptions, facts: SetFacts) -> Layout:
    stages, tensor, context = row.needed_count("pp"), row.needed_count("tp"), row.count("cp") or 1
    if context > 1 and model.family not in filled.stack.ring_families:
        raise SkippedRow(f"context parallelism of {filled.stack.name} is not modelled")
    layers = _stage_layers(row, model, assumed, facts)
    chunks = row.count("vpp") or _chunks(row, layers, assumed, facts)
    schedule: Schedule = "none" if stages == 1 else "1f1b" if chunks == 1 else "interleaved"
    sliced = model.experts is not None and filled.stack.experts.needs_slices
    return Layout(
        tensor_mode="1d" if tensor > 1 else "none",
        tensor_parallel=tensor,
        sequence_parallel_degree=context,
        expert_parallel=1 if model.experts is None else row.needed_count("ep"),
        pipeline_parallel=stages,
        data_parallel=row.needed_count("dp"),
        zero_stage=filled.zero_stage,
        sequence_parallel=tensor > 1 and (sliced or _sequence_parallel(row, assumed, facts)),
        micro_batch=filled.micro_batch,
        num_microbatches=cases.microbatches(model.global_batch, row.needed_count("dp"), filled.micro_batch),
        schedule=schedule,
        num_model_chunks=chunks if schedule == "interleaved" else 1,
        layers_per_stage=layers,
        recompute_layers_per_stage=_recomputed(row, layers, filled, assumed),
        offload=_offload(row),
        precision=filled.precision,
    )


def _recomputed(row: Row, layers: tuple[int, ...], filled: _Filled, assumed: Assumptions) -> tuple[int, ...]:
    """Recomputed layers of each stage: all, none, or the share that both utilisations of a selective row tell."""
    share, told = 1.0 if filled.recompute else 0.0, cases.recomputed_share(row)
    if row.text("recompute") == SELECTIVE and filled.stack.activations.attention == "flash" and told is not None:
        share = told
        assumed.note("selective recomputation: the layers that the hardware's FLOP beside the model's tell")
    return tuple(round(one * share) for one in layers)


def _stage_layers(row: Row, model: ModelSpec, assumed: Assumptions, facts: SetFacts) -> tuple[int, ...]:
    stages = row.needed_count("pp")
    if not facts.stages_by_cost or stages == 1:
        return cases.stage_layers(model.num_layers, stages, middle=False, assumed=assumed)
    filled_value(row, facts, assumed, "stages_by_cost", None, facts.stages_by_cost)
    return cases.layers_by_cost(model, stages, ends_at_share=facts.ends_at_share)


def _chunks(row: Row, layers: tuple[int, ...], assumed: Assumptions, facts: SetFacts) -> int:
    """Chunks of a stage where the row does not say: what the set's facts know of them, else one."""
    if facts.layers_per_chunk is None or len(layers) == 1 or layers[0] % facts.layers_per_chunk:
        return 1
    return layers[0] // filled_value(row, facts, assumed, "layers_per_chunk", None, facts.layers_per_chunk)


def _sequence_parallel(row: Row, assumed: Assumptions, facts: SetFacts) -> bool:
    stated = row.choice("sequence_parallel", ("yes", "no"))
    if stated or not facts.sequence_parallel:
        return stated == "yes"
    return filled_value(row, facts, assumed, "sequence_parallel", None, facts.sequence_parallel)


def _offload(row: Row) -> Offload:
    words = row.text("offload")
    known = {"none", "", *_OPTIMIZER_OFFLOADED}
    if words not in known:
        raise row.error("offload", f"`{words}` is not one of {', '.join(sorted(known - {''}))}", "")
    if words not in _OPTIMIZER_OFFLOADED:
        return Offload()
    return Offload(optimizer=1.0, parameters=float(words in _PARAMETERS_OFFLOADED), tier="cpu")


def _measured(row: Row, problem: Problem, assumed: Assumptions, facts: SetFacts) -> Measured:
    gib, kind = row.number("measured_mem_gib"), row.text("mem_kind")
    unit = PRINTED_GB if "nvidia-smi" in kind.lower() else GIB
    memory: dict[MemoryKind, float] = {} if gib is None else {_memory_kind(row, kind): gib * unit}
    return Measured(
        step_s=_step_s(row, problem, assumed),
        memory_bytes=memory,
        stage="last" if "last rank" in kind.lower() else facts.stage_read,
        outcome=row.choice("outcome", OUTCOMES) or "fit",
    )


def _memory_kind(row: Row, words: str) -> MemoryKind:
    lowered = words.lower()
    if "max allocated" in lowered:
        return "allocated"
    if "torchtitan" in lowered or "reserved" in lowered or "gpu memory gb" in lowered:
        return "reserved"
    if "gb as printed" in lowered or "nvidia-smi" in lowered:
        return "device"
    raise row.error(
        "mem_kind",
        f"`{words}` does not say what the memory reading counts",
        "use `max allocated`, `max reserved` or `nvidia-smi`",
    )


def _step_s(row: Row, problem: Problem, assumed: Assumptions) -> float | None:
    """The stated step time, or the one that tokens per second or FLOP per second amount to."""
    if "do not use for timing" in row.text("note"):
        return None
    stated = row.number("measured_step_s")
    if stated is not None:
        return stated
    tokens_per_s = row.number("tokens_per_s_per_gpu")
    tokens = problem.global_batch * problem.seq_len / problem.num_devices
    if tokens_per_s is not None:
        return tokens / tokens_per_s
    tflops, kind = row.number("measured_tflops_per_gpu"), row.text("tflops_kind")
    if "earlier TFLOPs formula" in row.text("note") and tflops is not None:
        assumed.note("step time from FLOP/s of BigScience's earlier count, 8 x 12 l h^2 a token")
        layers = 12 * problem.model.num_layers * problem.model.hidden_size**2
        return 8 * layers * tokens / (tflops * 1e12)
    factor = 4 if kind.startswith("hardware(incl. recompute)") else 3 if kind == "model" else None
    if tflops is None or factor is None:
        return None
    assumed.note("step time from FLOP/s where none is stated, by arXiv 2104.04473, equation 3")
    return _flops(problem, factor) / problem.num_devices / (tflops * 1e12)


def _flops(problem: Problem, factor: int) -> float:
    """``6 k B s l h^2 ... ``: FLOP of a step as the tables count them, ``k`` forward passes over the layers.

    ``k = 4`` counts recomputation, ``3`` does not. With ``f = 4 h`` this is ``24 k B s l h^2
    (1 + s / 6h) + 6 B s h V``, equation 3 of arXiv 2104.04473 for ``k = 4``. With experts those that a token passes.
    """
    if problem.model.experts is not None:
        return model_flops_per_step(problem) * factor / 3
    model = problem.model
    tokens, h = float(problem.global_batch * problem.seq_len), model.hidden_size
    layer = 2 * tokens * layer_parameters(model).matrices + 4 * tokens * problem.seq_len * model.query_size
    return factor * model.num_layers * layer + 6 * tokens * h * model.vocab_size
