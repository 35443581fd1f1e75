"""What a row of a table becomes: a case to replay, or a reason why it cannot be. And what every mapper needs for it."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import msgspec

from planner.cost_model.parameters import layer_parameters
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.specs import (
    AttentionSpec,
    Family,
    HardwareSpec,
    MlpSpec,
    ModelSpec,
    NormSpec,
    PositionSpec,
    Precision,
    StackSpec,
)
from planner.specs.files import builtin_names, load_spec
from planner.validation.tables import Row

MemoryKind = Literal["allocated", "reserved", "device"]
"""What a reading counts: live tensors, what PyTorch's allocator holds, or what the driver reports in use."""
MEMORY_KINDS: tuple[MemoryKind, ...] = ("allocated", "reserved", "device")


class SkippedRow(Exception):  # noqa: N818 - no error: a row that says why it is left out
    """Raised by a mapper for a row that cannot be replayed; its text is the reason."""


EIGHT_BIT = ("fp8", "fp4", "int8")
OUTCOMES = ("fit", "oom", "failed")
MFU_ROUNDING = 0.1
"""What whole percents leave unsure of three times a ratio of utilisations."""
StageRead = Literal["fullest", "first", "last"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a row measured; ``None`` and empty where it states nothing."""

    step_s: float | None
    memory_bytes: dict[MemoryKind, float]
    """By kind of reading."""
    stage: StageRead = "fullest"
    """The pipeline stage whose memory was read."""
    outcome: str
    """``fit`` or ``oom``."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measured run with everything that its replay needs."""

    problem: Problem
    layout: Layout
    measured: Measured
    assumptions: tuple[str, ...]
    """What the row does not state and how it was filled."""


@dataclass
class Assumptions:
    """Collects how the blanks of one row were filled."""

    stated: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add one, once."""
        if text not in self.stated:
            self.stated.append(text)


def problem_of(row: Row, *, model: ModelSpec, hardware: HardwareSpec, stack: StackSpec, layout: Layout) -> Problem:
    """The question that a run of this layout answers.

    Raises:
        SkippedRow: the degrees do not make up the GPUs.
    """
    if layout.num_devices != row.needed_count("n_gpus"):
        raise SkippedRow("TP x PP x DP is not the number of GPUs")
    return Problem(
        model=model,
        hardware=hardware,
        stack=stack,
        num_devices=layout.num_devices,
        devices_per_node=row.count("gpus_per_node") or hardware.devices_per_node,
        global_batch=model.global_batch,
        seq_len=model.seq_len,
        precision=layout.precision,
        allow_offload=layout.offload.tier,
    )


def model_of(
    row: Row, *, vocab: int, num_heads: int, dropout: float, precision: Precision, ffn_hidden: int | None = None
) -> ModelSpec:
    """The model of a row with the parts of its family; positions as long as its sequences.

    The loss head is the token embedding unless the row's note says untied, or its family has one of its own.
    """
    hidden, seq_len = row.needed_count("hidden"), row.needed_count("seq_len")
    if hidden % num_heads:
        raise SkippedRow("the hidden size does not divide by the heads")
    family, note = family_of(row), row.text("note")
    return ModelSpec(
        name="row",
        title=row.text("model"),
        num_layers=row.needed_count("layers"),
        hidden_size=hidden,
        num_heads=num_heads,
        ffn_hidden_size=ffn_hidden or 4 * hidden,
        vocab_size=vocab,
        max_seq_len=seq_len,
        tied_embeddings="embeddings tied" in note or (family is None and "untied" not in note),
        dropout=dropout,
        seq_len=seq_len,
        global_batch=row.needed_count("global_batch"),
        precision=precision,
        sources={},
        **_parts_of(family, row.count("kv_heads")),
    )


def expert_model(row: Row) -> ModelSpec | None:
    """The built-in model with experts that a row's model is called like, whatever stands between its letters."""
    return _expert_models().get(_letters(row.text("model")))


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _expert_models() -> dict[str, ModelSpec]:
    models = (load_spec(name, ModelSpec) for name in builtin_names(ModelSpec))
    return {_letters(model.name): model for model in models if model.experts is not None}


def evenly_routed(row: Row, model: ModelSpec, precision: Precision) -> ModelSpec:
    """A model with experts on the sequences and the batch of a row, every rank of which gets equally many tokens.

    Raises:
        SkippedRow: the row has another number of layers or hidden units.
    """
    if (row.needed_count("layers"), row.needed_count("hidden")) != (model.num_layers, model.hidden_size):
        raise SkippedRow(f"not the layers and hidden units of {model.name}")
    assert model.experts is not None
    seq_len = row.needed_count("seq_len")
    return msgspec.structs.replace(
        model,
        experts=msgspec.structs.replace(model.experts, fullest=1.0),
        max_seq_len=max(model.max_seq_len, seq_len),
        seq_len=seq_len,
        global_batch=row.needed_count("global_batch"),
        precision=precision,
    )


def family_of(row: Row) -> Family | None:
    """The family whose parts a row's model has, by its name; ``None`` for GPT-2's and others."""
    families: tuple[Family, ...] = ("llama", "mistral")
    return next((family for family in families if family in row.text("model").lower()), None)


def _parts_of(family: Family | None, kv_heads: int | None) -> dict[str, Any]:
    """The parts of a family as the rows' models have them, without a window; none for GPT-2's, the defaults."""
    if family is None:
        return {}
    return {
        "attention": AttentionSpec(kv_heads=kv_heads, qkv_bias=False, output_bias=False),
        "positions": PositionSpec(kind="rotary"),
        "mlp": MlpSpec(gated=True, activation="silu", bias=False),
        "norm": NormSpec(kind="rmsnorm"),
    }


def layers_by_cost(model: ModelSpec, stages: int, *, ends_at_share: bool = False) -> tuple[int, ...]:
    """Layers of stages that are filled until they exceed an equal share of the products, the loss head's included.

    Embedding and norms count nothing; a block goes to the stage that its end exceeds, or
    reaches with ``ends_at_share``.
    """
    layer, head = layer_parameters(model).matrices, model.vocab_size * model.hidden_size
    whole = model.num_layers * layer + head
    dealt, stage = [0] * stages, 0
    for number in range(1, model.num_layers + 1):
        dealt[stage] += 1
        if number * layer * stages - whole * (stage + 1) >= (0 if ends_at_share else 1):
            stage += 1
    return tuple(dealt)


def precision_of(words: str) -> Precision | None:
    """The 16- or 32-bit format that a cell names; ``None`` for a blank.

    Raises:
        SkippedRow: an 8-bit format or smaller, or none that is known.
    """
    lowered = words.lower()
    if any(short in lowered for short in EIGHT_BIT):
        raise SkippedRow("8-bit or 4-bit matrix products are not modelled")
    known: tuple[Precision, ...] = ("fp16", "bf16", "fp32")
    for precision in known:
        if precision in lowered:
            return precision
    if lowered:
        raise SkippedRow(f"precision `{words}` is not known")
    return None


def head_count(hidden: int, tensor_parallel: int) -> int:
    """The number of heads that TP divides and whose size is nearest to 128."""
    counts = [heads for heads in range(tensor_parallel, hidden + 1, tensor_parallel) if hidden % heads == 0]
    return min(counts, key=lambda heads: abs(hidden // heads - 128)) if counts else 1


def recomputed_share(row: Row) -> float | None:
    """Share of the layers that recompute, of a row that states the utilisation by the hardware's FLOP and the model's.

    Recomputing every layer adds a forward to the three of a step: the share is three times what the first has more of.
    ``None`` where a row does not state both, or they leave no share from 0 to 1 but for what rounding adds.
    """
    of_hardware = re.search(r"\bHFU (\d+(?:\.\d+)?)%", row.text("note"))
    of_model = row.number("measured_mfu") if of_hardware else None
    if of_model is None or of_hardware is None:
        return None
    share = 3.0 * (float(of_hardware[1]) / of_model - 1.0)
    return min(share, 1.0) if 0.0 <= share <= 1.0 + MFU_ROUNDING else None


def stage_layers(layers: int, stages: int, *, middle: bool, assumed: Assumptions) -> tuple[int, ...]:
    """Layers of each stage where the row does not list them.

    Evenly where they divide. Where ``layers + 2`` divides, the embedding and the head count as a layer
    each. Else the rest goes to the first stages, or to the middle ones.
    """
    share, rest = divmod(layers, stages)
    if rest == 0:
        return (share,) * stages
    if (layers + 2) % stages == 0 and layers >= stages - 2 and not middle:
        assumed.note("the embedding and the head count as one layer each where that divides over the stages")
        even = (layers + 2) // stages
        return (even - 1, *(even,) * (stages - 2), even - 1)
    start = stages // 2 - rest // 2 if middle else 0
    assumed.note(
        f"layers that do not divide over the stages: the {'middle' if middle else 'first'} stages take the rest"
    )
    return tuple(share + (start <= stage < start + rest) for stage in range(stages))


def microbatches(global_batch: int, data_parallel: int, micro_batch: int) -> int:
    """Micro batches of a step on each rank.

    Raises:
        SkippedRow: the batch does not divide.
    """
    if global_batch % (data_parallel * micro_batch):
        raise SkippedRow("the global batch does not divide by DP x micro batch")
    return global_batch // (data_parallel * micro_batch)
