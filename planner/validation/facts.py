"""What is known of a set of runs beyond its table: how blanks are filled, and why.

The built-in data is in facts.toml. A file of the same form says it of sets of one's own (``validate --facts``), and
the columns :data:`ROW_FACTS` of a table say it of single rows.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import msgspec
from msgspec import Meta

from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.inputs import read_input
from planner.specs import Precision, StackSpec
from planner.specs.base import Batch, Count, Fraction, Layers, Share, Width
from planner.specs.files import builtin_names, decode, did_you_mean, load_spec
from planner.specs.networks import parse_network
from planner.specs.units import BytesPerSecond, Seconds
from planner.validation.cases import Assumptions, StageRead
from planner.validation.tables import Row

Value = TypeVar("Value")
Attention = Literal["flash", "materialised"]
MAX_FACTS_BYTES = 1024**2


Range = tuple[Count, Count]
"""The least and the most, both included."""


class OtherRuns(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which runs of a set were made under the conditions of another one: those within all ranges that are stated."""

    facts: str
    """The set of facts of these runs."""
    nodes: Range | None = None
    """Nodes of the run."""
    tensor_parallel: Range | None = None
    """Degree of tensor parallelism."""
    pipeline_parallel: Range | None = None
    """Number of pipeline stages."""
    data_parallel: Range | None = None
    """Degree of data parallelism."""
    zero_stage: Annotated[int, Meta(ge=0, le=3)] | None = None
    """ZeRO stage."""
    global_batch: Range | None = None
    """Sequences of a step."""
    micro_batch: Range | None = None
    """Sequences of a micro batch; a row that does not state it is within none."""
    num_microbatches: Range | None = None
    """Micro batches of a step on each rank."""

    def fits(self, row: Row) -> bool:
        """Whether a row is within all ranges; a blank is one rank, and no ZeRO."""
        nodes = -(-(row.count("n_gpus") or 1) // (row.count("gpus_per_node") or NODE_GPUS))
        counts = {"tp": self.tensor_parallel, "pp": self.pipeline_parallel, "dp": self.data_parallel}
        stated = [(within, row.count(column) or 1) for column, within in counts.items()]
        batch = row.count("global_batch") or 1
        each = (row.count("dp") or 1) * (row.count("micro_batch") or 1)
        stated += [(self.micro_batch, row.count("micro_batch") or 0)]
        stated += [(self.nodes, nodes), (self.global_batch, batch), (self.num_microbatches, batch // each)]
        inside = all(within is None or within[0] <= value <= within[1] for within, value in stated)
        return inside and self.zero_stage in (None, row.whole("zero_stage") or 0)


class SetFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fillings for the blanks of one set; a row's own cell always wins."""

    stack: str
    """A built-in training stack, or a TOML file of one."""
    bf16_stack: str | None = None
    """The stack of rows in bf16, if that is another one."""
    zero3_stack: str | None = None
    """The stack of rows under ZeRO stage 3, if that is another one."""
    precision: Precision = "bf16"
    """Format of weights and activations."""
    attention: Attention | None = None
    """Whether attention is one kernel or materialises its scores; ``None``: what the stack does."""
    recompute: Literal["full", "none"] = "none"
    """Whether every layer is recomputed."""
    states_recompute: bool = True
    """Whether the table's column of it holds for the runs; if not, ``recompute`` does."""
    zero_stage: Annotated[int, Meta(ge=0, le=3)] = 0
    """ZeRO stage."""
    dropout: Fraction = 0.1
    """Probability of attention and hidden dropout."""
    card_gb: Count = 80
    """Memory of the card where the table names only its kind."""
    vocab: Width = 50257
    """Tokens of the vocabulary."""
    micro_batch: Batch | Literal["whole"] | None = None
    """``whole``: a data-parallel rank's batch is one micro batch. ``None``: a row has to state it."""
    network: str = ""
    """Where the row names none: ``8 x 200 Gbit/s`` a node, or the name of one of the ``networks``."""
    sequence_parallel: bool = False
    """Whether tensor parallelism divides the sequence around the norms."""
    stages_by_cost: bool = False
    """Whether the software divides layers over stages by their products, the loss head's among them."""
    llama: str | None = None
    """The set of facts of rows with Llama's parts, if they were made with other software."""
    layers_per_chunk: Layers | None = None
    """Layers of a chunk of the interleaved schedule, where the row states no chunks; ``None``: 1F1B."""
    pads_whole_vocab: bool = True
    """Whether a rank that has the whole vocabulary pads it."""
    ends_at_share: bool = False
    """Whether a stage divided by products ends where its share is reached; else where it is exceeded."""
    blocking_launches: bool = False
    """Whether the runs were made with CUDA_LAUNCH_BLOCKING=1."""
    message_host_s: Seconds = msgspec.field(name="message_host", default=Seconds(0))
    """What each tensor that is sent between stages kept the hosts of both from going on."""
    collective_rank_host_s: Seconds = msgspec.field(name="collective_rank_host", default=Seconds(0))
    """What hosts waited for each other before any collective, for each rank of its group on the node of the first."""
    collective_far_rank_host_s: Seconds = msgspec.field(name="collective_far_rank_host", default=Seconds(0))
    """The same for each rank on another node."""
    others: tuple[OtherRuns, ...] = ()
    """Runs of the set whose conditions were others; the first entry that a row fits tells."""
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


class KnownNetwork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network that a table means by a name."""

    adapters: str
    """Of one node, and the one-way rate of each: ``8 x 200 Gbit/s``."""
    efficiency: Share | None = None
    """Share of it that collectives reach, if that was measured there; else the card's spec has it."""
    latency_s: Seconds | None = msgspec.field(name="latency", default=None)
    """Of one message, if it is another one than in the card's spec."""
    ring: BytesPerSecond | None = None
    """The most that one collective reaches out of a node, if that was measured there."""
    switched: bool = False
    """Whether a switch joins the devices of a node, so that few of them reach as much of its links as all."""
    peak: Annotated[float, Meta(gt=0.0, le=4.0)] = 1.0
    """Peaks of the cards in machines of that name, as a multiple of the spec's, where their clock is another one."""
    why: str = ""
    """Where these are from."""


ANY_SET = "any-set"
OWN_BLOCKS = "own-blocks"
"""Recorded runs of gptplan itself."""
HUGGING_FACE_BLOCKS = "hugging-face-blocks"
"""Recorded runs of Colossal-AI with the models of Hugging Face."""
LEGACY_EXAMPLES = "legacy-examples"
NETWORKS = "networks"
"""The table of a file that is of networks and of no set."""
ROW_FACTS = ("stack", "dropout", "stages_by_cost", "pads_whole_vocab", "blocking_launches", "stage_read")
"""Columns of a table that state a fact of one row and have no other column."""
NODE_GPUS = 8
"""Of a node where the row does not say."""
_STAGES: tuple[StageRead, ...] = ("fullest", "first", "last")


@dataclass(frozen=True, kw_only=True)
class KnownFacts:
    """The facts of every set, and what names of networks mean."""

    tables: Mapping[str, Mapping[str, Any]]
    networks: Mapping[str, KnownNetwork]
    own: frozenset[str] = field(default_factory=frozenset)
    """Sets of which a file of the user's speaks."""

    def of(self, name: str, otherwise: str = ANY_SET) -> SetFacts:
        """The fillings of a set or of a kind of runs; those of ``otherwise`` for a set that nothing is known of."""
        return decode(
            self._fields(name if name in self.tables else otherwise), SetFacts, f"facts of {name}", what="facts"
        )

    def of_row(self, row: Row, otherwise: str = ANY_SET) -> SetFacts:
        """The fillings of a row's set, with what the row itself states in the columns :data:`ROW_FACTS`.

        Those of other runs stand in for them where the set says so of such a row.

        Raises:
            PlanError: a cell is no word or number that its column takes.
        """
        facts, stated = self.of(row.set_name, otherwise), dict(_stated(row))
        other = next((runs.facts for runs in facts.others if runs.fits(row)), None)
        facts = facts if other is None else self.of(other)
        if "stack" in stated:
            stated |= {"bf16_stack": None, "zero3_stack": None, "llama": None}
        return msgspec.structs.replace(facts, **stated) if stated else facts

    def _fields(self, name: str) -> dict[str, Any]:
        """A table over the one that it is like, and its reasons over those."""
        own = dict(self.tables[name])
        like = self._fields(own.pop("like")) if "like" in own else {}
        return like | own | {"why": like.get("why", {}) | own.get("why", {})}


def _stated(row: Row) -> Iterator[tuple[str, Any]]:
    for column in ("stages_by_cost", "pads_whole_vocab", "blocking_launches"):
        if word := row.choice(column, ("yes", "no")):
            yield column, word == "yes"
    if stage := row.choice("stage_read", _STAGES):
        yield "stage_read", cast(StageRead, stage)
    if (dropout := row.rate("dropout")) is not None:
        yield "dropout", dropout
    if stack := row.text("stack"):
        _check_stack(stack, f"{row.path}:{row.line}: column stack")
        yield "stack", stack


@cache
def builtin_facts() -> KnownFacts:
    """What gptplan knows of published sets."""
    text = Path(__file__).with_name("facts.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    networks = {
        name: decode(fields, KnownNetwork, "facts.toml", what="facts") for name, fields in tables.pop(NETWORKS).items()
    }
    return KnownFacts(tables=tables, networks=networks)


def facts_of(name: str) -> SetFacts:
    """The built-in fillings of a set or of a kind of runs; general ones for a set that nothing is known of."""
    return builtin_facts().of(name)


def read_facts(path: Path) -> KnownFacts:
    """The built-in facts with those of a file over them: a table for each set, and ``[networks."NAME"]``.

    A table of a set that gptplan knows stands over what it knows; ``like = "SET"`` takes the facts of another set,
    and a table that is like none those of ``any-set``.

    Raises:
        PlanError: the file cannot be read, or something in it is no fact; the message says where.
    """
    hint = "docs/validation-facts.md says what it may hold"
    content = read_input(path, what="file of facts", most_bytes=MAX_FACTS_BYTES, hint=hint)
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise usage_error(f"the file of facts is not TOML: {error}", location=str(path), hint=hint) from error
    if wrong := next((name for name, fields in tables.items() if not isinstance(fields, dict)), None):
        message = f"`{wrong}` is no table"
        raise usage_error(message, location=str(path), hint=f"write `[SET]` over `{wrong} = ...`, with the set's name")
    known = builtin_facts()
    networks = dict(known.networks)
    for name, fields in tables.pop(NETWORKS, {}).items():
        networks[name] = decode(fields, KnownNetwork, f"{path}: [{NETWORKS}.{name}]", what="facts")
        _check_adapters(networks[name].adapters, f"{path}: [{NETWORKS}.{name}]: adapters")
    merged = {name: dict(fields) for name, fields in known.tables.items()}
    for name, fields in tables.items():
        merged[name] = _over(merged.get(name, {} if name == ANY_SET else {"like": ANY_SET}), fields)
    facts = KnownFacts(tables=merged, networks=networks, own=frozenset(tables))
    for name in tables:
        _check_set(facts, name, f"{path}: [{name}]")
    return facts


def _over(known: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    why = own.get("why", {})
    return {**known, **own, "why": known.get("why", {}) | (why if isinstance(why, dict) else {})}


def _check_set(facts: KnownFacts, name: str, location: str) -> None:
    """Refuse a table with anything that is no fact, is like a set that there is not, or like itself."""
    seen, at = [name], facts.tables[name].get("like")
    while at is not None:
        if at not in facts.tables:
            hint = did_you_mean(str(at), facts.tables) or f"the sets are {', '.join(sorted(facts.tables))}"
            raise usage_error(f"nothing is known of a set `{at}`", location=f"{location}: like", hint=hint)
        if at in seen:
            message = f"the set is like itself: {' -> '.join([*seen, at])}"
            raise usage_error(message, location=f"{location}: like", hint="name a set with facts of its own")
        seen.append(at)
        at = facts.tables[at].get("like")
    found = decode(facts._fields(name), SetFacts, location, what="facts")
    for field_name in ("stack", "bf16_stack", "zero3_stack"):
        if (stack := getattr(found, field_name)) is not None:
            _check_stack(stack, f"{location}: {field_name}")
    if found.network and found.network not in facts.networks:
        _check_adapters(found.network, f"{location}: network")
    _check_others(facts, found, location)


def _check_others(facts: KnownFacts, found: SetFacts, location: str) -> None:
    """Refuse a set that names others which there are not."""
    others = {"llama": found.llama} | {f"others[{place}]": runs.facts for place, runs in enumerate(found.others)}
    for field_name, other in others.items():
        if other is not None and other not in facts.tables:
            hint = did_you_mean(other, facts.tables)
            raise usage_error(f"nothing is known of a set `{other}`", location=f"{location}: {field_name}", hint=hint)


def _check_adapters(words: str, location: str) -> None:
    try:
        parse_network(words)
    except ValueError as error:
        raise usage_error(str(error), location=location) from error


def _check_stack(name: str, location: str) -> None:
    if name in builtin_names(StackSpec):
        return
    try:
        load_spec(name, StackSpec)
    except PlanError as error:
        found = (msgspec.structs.replace(one, location=one.location or location) for one in error.diagnostics)
        raise PlanError(*cast("Iterator[Diagnostic]", found)) from error


def filled_value(
    row: Row, facts: SetFacts, assumed: Assumptions, field: str, value: Value | None, known: Value
) -> Value:
    """``value`` where the row states it, else ``known``, which is noted with its reason unless a row states that."""
    if value is not None:
        return value
    if field in ROW_FACTS and row.text(field):
        return known
    why = facts.why.get(field, "")
    assumed.note(f"{row.set_name}: {field} {known}" + f" ({why})" * bool(why))
    return known
