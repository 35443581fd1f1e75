"""Pieces that every mapper needs: the model, the layers of each stage, the batch."""

from planner.specs import ModelSpec, Precision
from planner.validation.cases import Assumptions, SkippedRow
from planner.validation.tables import Row

EIGHT_BIT = ("fp8", "fp4", "int8")


def model_of(
    row: Row, *, vocab: int, num_heads: int, dropout: float, precision: Precision, ffn_hidden: int | None = None
) -> ModelSpec:
    """The GPT-2-architecture model of a row; positions as long as its sequences."""
    hidden, seq_len = row.needed_count("hidden"), row.needed_count("seq_len")
    if hidden % num_heads:
        raise SkippedRow("the hidden size does not divide by the heads")
    return ModelSpec(
        name="row",
        title=row.text("model"),
        num_layers=row.needed_count("layers"),
        hidden_size=hidden,
        num_heads=num_heads,
        ffn_hidden_size=ffn_hidden or 4 * hidden,
        vocab_size=vocab,
        max_seq_len=seq_len,
        tied_embeddings=True,
        dropout=dropout,
        seq_len=seq_len,
        global_batch=row.needed_count("global_batch"),
        precision=precision,
        sources={},
    )


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
