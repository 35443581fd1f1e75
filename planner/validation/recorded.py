"""Rows of runs on Colossal-AI: what ``gptplan run --record`` appends, and tables of the same columns."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast, get_args

import msgspec

from planner.layouts.layout import SCHEDULES, Layout, Offload
from planner.specs import ModelSpec, OffloadTier, Schedule, StackSpec, TensorMode
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import MIB
from planner.validation import cases
from planner.validation.cases import OUTCOMES, Assumptions, Case, Measured, MemoryKind, SkippedRow
from planner.validation.facts import HUGGING_FACE_BLOCKS, OWN_BLOCKS, KnownFacts, SetFacts, builtin_facts, filled_value
from planner.validation.machines import hardware_of
from planner.validation.tables import Row

_OWN_BLOCKS = "gptplan"
"""The word in ``attn`` that marks gptplan's own GPT blocks; others are Colossal-AI's Hugging Face ones."""

_TENSORS_OF_A_LAYER = 12
_COUNTED_OFTEN = (
    "Gemini's share of offloaded states taken as all of them, or of weights as none: Colossal-AI 0.5.0 counts a chunk "
    "once for every parameter in it (zero/gemini/placement_policy.py, setup_grads_device)"
)


def case_of(row: Row, known: KnownFacts | None = None) -> Case:
    """Replayable form of one row, whose blanks are filled by ``known``, the built-in facts unless told.

    Raises:
        SkippedRow: it cannot be replayed, with the reason.
        PlanError: a cell is no number or no known word.
    """
    known, assumed = known or builtin_facts(), Assumptions()
    if row.text("plugin") == "GeminiPlugin" and row.text("shard_param_frac") not in ("", "1.0", "1"):
        raise SkippedRow("Gemini that keeps gathered weights (shard_param_frac below 1) is not modelled")
    blocks = OWN_BLOCKS if _OWN_BLOCKS in row.text("attn") else HUGGING_FACE_BLOCKS
    # The blocks say more than a set's name, but not than what a user says of the set.
    facts = known.of_row(row, blocks) if row.set_name in known.own else known.of_row(row.in_set(blocks))
    hardware = hardware_of(row, facts.card_gb, assumed, known, facts.network)
    fill = partial(filled_value, row, facts, assumed)
    model = _model(row, fill, facts)
    stack = load_spec(fill("stack", None, facts.stack), StackSpec)
    layout = _layout(row, model, assumed)
    if layout.offload != _asked_offload(row):
        assumed.note(_COUNTED_OFTEN)
    problem = cases.problem_of(row, model=model, hardware=hardware, stack=stack, layout=layout)
    problem = msgspec.structs.replace(problem, compiled=bool(row.choice("compiled", {"yes": "yes", "no": ""})))
    return Case(problem=problem, layout=layout, measured=_measured(row), assumptions=tuple(assumed.stated))


def _model(row: Row, fill: Callable[..., Any], facts: SetFacts) -> ModelSpec:
    precision = cases.precision_of(row.text("precision")) or "bf16"
    known = load_spec(row.text("model"), ModelSpec) if row.text("model") in builtin_names(ModelSpec) else None
    own_dropout = known.dropout if known and _OWN_BLOCKS in row.text("attn") else None
    stated = row.rate("dropout")
    model = cases.model_of(
        row,
        vocab=row.needed_count("vocab"),
        num_heads=row.needed_count("heads"),
        dropout=fill("dropout", own_dropout if stated is None else stated, facts.dropout),
        precision=precision,
        ffn_hidden=row.count("ffn_hidden") or (known.ffn_hidden_size if known else None),
    )
    if row.choice("tied_embeddings", {"yes": "", "no": "no"}):
        model = msgspec.structs.replace(model, tied_embeddings=False)
    return model


def _layout(row: Row, model: ModelSpec, assumed: Assumptions) -> Layout:
    stages, tensor, data = row.needed_count("pp"), row.needed_count("tp"), row.needed_count("dp")
    chunks, micro_batch = row.count("num_model_chunks") or 1, row.needed_count("micro_batch")
    layers = row.wholes("layers_per_stage") or cases.stage_layers(
        model.num_layers, stages, middle=True, assumed=assumed
    )
    if len(layers) != stages or sum(layers) != model.num_layers:
        raise row.error("layers_per_stage", "the layers are not those of the model, one number a stage", "")
    if model.global_batch != row.needed_count("batch_per_dp_rank") * data:
        raise SkippedRow("the batch of a rank times DP is not the global batch")
    schedules: dict[str, Schedule] = {name: name for name in SCHEDULES if name != "none"}
    return Layout(
        tensor_mode=_tensor_mode(row, tensor),
        tensor_parallel=tensor,
        tensor_depth=row.count("tensor_depth") or 1,
        pipeline_parallel=stages,
        data_parallel=data,
        zero_stage=row.whole("zero_stage") or 0,
        sequence_parallel=bool(row.choice("sequence_parallel", {"split_gather": "yes"})),
        micro_batch=micro_batch,
        num_microbatches=cases.microbatches(model.global_batch, data, micro_batch),
        schedule=schedules.get(row.text("pp_style"), "1f1b") if stages > 1 else "none",
        num_model_chunks=chunks,
        layers_per_stage=layers,
        recompute_layers_per_stage=_recomputed(row, layers),
        recompute_pointwise=bool(row.choice("recompute_pointwise", {"yes": "yes", "no": ""})),
        offload=_offload(row),
        precision=model.precision,
    )


def _tensor_mode(row: Row, tensor_parallel: int) -> TensorMode:
    stated = row.choice("tensor_mode", get_args(TensorMode))
    return cast(TensorMode, stated or ("1d" if tensor_parallel > 1 else "none"))


def _recomputed(row: Row, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Recomputed layers of each stage: of all or no layers, or as many as the cell says."""
    words = {"full": layers, "none": (0,) * len(layers), "": (0,) * len(layers)}
    text = row.text("recompute")
    if text in words:
        return words[text]
    if not text.replace(" ", "").isdigit():
        row.choice("recompute", ("full", "none"))
    stated = row.wholes("recompute")
    if len(stated) != len(layers) or any(some > held for some, held in zip(stated, layers, strict=False)):
        raise row.error("recompute", "the recomputed layers are not one number a stage, within its layers", "")
    return stated


def _offload(row: Row) -> Offload:
    """What left the device: Colossal-AI alone rounds Gemini's shares, see :mod:`runtime.patches.gemini_shares`."""
    asked = _asked_offload(row)
    if row.text("plugin") != "GeminiPlugin" or _OWN_BLOCKS in row.text("attn"):
        return asked
    if asked.optimizer < 1 / _TENSORS_OF_A_LAYER:
        return Offload()
    everything = asked.parameters > 1 - 1 / _TENSORS_OF_A_LAYER
    return Offload(optimizer=1.0, parameters=float(everything), tier=asked.tier)


def _asked_offload(row: Row) -> Offload:
    optimizer, parameters = row.fraction("offload_optim_frac"), row.fraction("offload_param_frac")
    if not (optimizer or parameters):
        return Offload()
    tier = row.choice("offload_tier", ("cpu", "nvme")) or "cpu"
    return Offload(optimizer=optimizer, parameters=parameters, tier=cast(OffloadTier, tier))


def _measured(row: Row) -> Measured:
    per_rank = row.wholes("peak_allocated_mib_per_rank")
    reserved, device = row.count("peak_reserved_mib_max"), row.count("device_used_mib_max")
    readings: dict[MemoryKind, int | None] = {
        "allocated": max(per_rank, default=None),
        "reserved": reserved,
        "device": device,
    }
    return Measured(
        step_s=row.number("step_s"),
        memory_bytes={kind: float(mib * MIB) for kind, mib in readings.items() if mib is not None},
        outcome=row.choice("outcome", OUTCOMES) or "fit",
    )
