"""Which rows of published tables cannot be replayed, and why. Data: the first reason that holds is given."""

from collections.abc import Callable

from planner.validation.cases import SkippedRow
from planner.validation.tables import Row

_NOT_GPT2 = ("llama", "nemotron", "rope", "rotary", "swiglu")
"""Words in a model's name that mark gated or squared-ReLU MLPs and rotary positions."""


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
        "not the GPT-2 architecture: grouped-query attention",
        lambda row: row.count("kv_heads") not in (None, row.count("heads")),
    ),
    (
        "not the GPT-2 architecture: rotary positions, or a gated or squared-ReLU MLP",
        lambda row: any(word in row.text("model").lower() for word in _NOT_GPT2),
    ),
    (
        "its own source doubts the memory reading (suspect)",
        lambda row: "suspect" in row.text("note") and row.number("measured_mem_gib") is not None,
    ),
    ("context parallelism is not modelled", lambda row: (row.count("cp") or 1) > 1),
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
