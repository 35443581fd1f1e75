"""What is known of a set of runs beyond its table: how blanks are filled, and why. The data is in facts.toml."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from planner.specs import Precision
from planner.validation.cases import Assumptions, StageRead

Value = TypeVar("Value")
Attention = Literal["flash", "materialised"]


class SetFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fillings for the blanks of one set; a row's own cell always wins."""

    stack: str
    bf16_stack: str | None = None
    """The stack of rows in bf16, if that is another one."""
    zero3_stack: str | None = None
    """The stack of rows under ZeRO stage 3, if that is another one."""
    precision: Precision = "bf16"
    attention: Attention = "flash"
    recompute: Literal["full", "none"] = "none"
    states_recompute: bool = True
    """Whether the table's column of it holds for the runs; if not, ``recompute`` does."""
    zero_stage: int = 0
    dropout: float = 0.1
    card_gb: int = 80
    vocab: int = 50257
    micro_batch: int | Literal["whole"] | None = None
    """``whole``: a data-parallel rank's batch is one micro batch. ``None``: a row has to state it."""
    network: str = ""
    """One of the networks that are known, where the row names none."""
    sequence_parallel: bool = False
    stages_by_cost: bool = False
    """Whether the software divides layers over stages by their products, the loss head's among them."""
    llama: str | None = None
    """The set of facts of rows with Llama's parts, if they were made with other software."""
    layers_per_chunk: int | None = None
    """Layers of a chunk of the interleaved schedule, where the row states no chunks; ``None``: 1F1B."""
    pads_whole_vocab: bool = True
    """Whether a rank that has the whole vocabulary pads it."""
    blocking_launches: bool = False
    """Whether the runs were made with CUDA_LAUNCH_BLOCKING=1."""
    stage_read: StageRead = "fullest"
    """The pipeline stage whose memory the set's readings show."""
    hosts: str = ""
    """What is known of the machines that the runs were on."""
    why: dict[str, str] = {}
    """Field to the reason for its value."""
    caveat: str = ""
    """What limits how close a prediction of this set can come, if its source says so."""
    worst: str = ""
    """What the rows have in common whose step times are predicted worst, and why as far as that is known."""


ANY_SET = "any-set"
OWN_BLOCKS = "own-blocks"
"""Recorded runs of gptplan itself."""
HUGGING_FACE_BLOCKS = "hugging-face-blocks"
"""Recorded runs of Colossal-AI with the models of Hugging Face."""
LEGACY_EXAMPLES = "legacy-examples"


@cache
def facts_of(name: str) -> SetFacts:
    """The fillings of a set or of a kind of runs; general ones for a set that nothing is known of."""
    return msgspec.convert(_fields(name if name in _tables() else ANY_SET), SetFacts)


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads(Path(__file__).with_name("facts.toml").read_text(encoding="utf-8"))


def _fields(name: str) -> dict[str, Any]:
    """A table over the one that it is like, and its reasons over those."""
    own = dict(_tables()[name])
    like = _fields(own.pop("like")) if "like" in own else {}
    return like | own | {"why": like.get("why", {}) | own.get("why", {})}


def filled_value(
    set_name: str, facts: SetFacts, assumed: Assumptions, field: str, value: Value | None, known: Value
) -> Value:
    """``value`` where the row states it, else ``known``, which is noted with its reason."""
    if value is not None:
        return value
    why = facts.why.get(field, "")
    assumed.note(f"{set_name}: {field} {known}" + f" ({why})" * bool(why))
    return known
