"""One reader for every framework that a table describes."""

from typing import Any

from planner.lint.dialects.tabled.foreign import FOREIGN
from planner.lint.dialects.tabled.frameworks import OF_GPT2, TABLES, TORCHTITAN, Table
from planner.lint.dialects.tabled.torchtitan import divide_layers, keep_weights
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.model_names import model_of_sizes
from planner.lint.reading import Keys, Reading, Unknowns, refuse_unknown
from planner.lint.source import Source, Value
from planner.specs.model import AttentionSpec, MlpSpec, NormSpec, PositionSpec

_NONE = (None, UNDECIDED)
CUTOFF = 0.85
"""How alike a name has to be to one that is read to be meant for it."""
LEAST_MISSPELT = 9
"""Shorter names are too alike to tell a mistake from another key."""


def _plain_names(source: Source) -> dict[str, Value]:
    """Settings with underscores; old files of GPT-NeoX write dashes."""
    return {key.replace("-", "_"): value for key, value in source.settings.items()}


def _has(keys: Any, all_of: tuple[tuple[str, ...], ...]) -> bool:
    return all(any(key in keys for key in one_of) for one_of in all_of)


def table_of(source: Source) -> Table | None:
    """The framework whose marks a data file has."""
    if source.language not in ("yaml", "toml", "json"):
        return None
    keys = _plain_names(source)
    return next((table for table in TABLES if _has(keys, table.all_of)), None)


def foreign_name(source: Source) -> str:
    """Another program that a data file is for; empty where it is not known."""
    if source.language not in ("yaml", "toml", "json"):
        return ""
    return next((name for name, all_of in FOREIGN if _has(source.settings, all_of)), "")


def read_table(table: Table, source: Source, asked: Asked) -> Draft:
    """The layout of a file, by the table of its framework."""
    reading = Reading(table.dialect, source, asked)
    reading.settings = _plain_names(source)
    keys = Keys(reading)
    read = [key for group in (table.counts, table.flags) for names in group.values() for key in names]
    read += [key for key, _ in table.choices.values()]
    others = {*table.others.split()}
    for parent in {key.rpartition(".")[0] for key in read}:
        known = {key.rpartition(".")[2] for key in read if key.rpartition(".")[0] == parent}
        names = {name for name in known if len(name) >= LEAST_MISSPELT} | others
        refuse_unknown(keys, parent, names, Unknowns("there is no {name}", CUTOFF, far=False))
    counts = {name: _count(keys, table, name) for name in table.counts}
    _mesh(reading, counts, table)
    _states(keys, reading, table, counts)
    _model(keys, reading, table, counts)
    if table.dialect.name == TORCHTITAN:
        divide_layers(keys, reading, counts)
        keep_weights(keys, reading)
    _batch(reading, counts, table)
    _sizes(keys, reading, table, counts)
    return reading.draft()


def _count(keys: Keys, table: Table, name: str) -> Any:
    """A whole number; nothing for what stands for a default, and not known where a checkpoint or a search tells."""
    found = keys.get(*table.counts[name])
    if found is None or found[1].content is None:
        return table.defaults.get(name) if name in ("local_batch", "seq_len") else None
    content = found[1].content
    if name in ("less_first", "less_last"):
        return keys.count(*table.counts[name], name=name, least=0)
    if str(content) in table.ignored or content == 0:
        return None if name != "zero_stage" else 0
    if content == -1 or isinstance(content, tuple):
        return keys.left_open(found[0], "a checkpoint brings it" if content == -1 else "it is a list to search")
    if name == "zero_stage":
        return keys.choice(*table.counts[name], choices=(0, 1, 2, 3), name=name)
    return keys.count(*table.counts[name], name=name, least=0)


def _sizes(keys: Keys, reading: Reading, table: Table, counts: dict[str, Any]) -> None:
    """What the frameworks assert of the sizes of a model, and keys that have to be there."""
    names = ("hidden_size", "num_heads", "kv_heads", "max_seq_len", "seq_len")
    reading.tell(**{name: counts.get(name) for name in names})
    if any(keys.given(key) for key in ("model.kv_channels", "model.model_config.head_dim", "attention_config")):
        reading.facts.pop("hidden_size", None)
    there = [key for key in table.required if keys.has(key)]
    missing = next((key for key in table.required if key not in there), None)
    if len(there) > 1 and missing is not None:
        reading.tell(missing_key=missing)


def _mesh(reading: Reading, counts: dict[str, Any], table: Table) -> None:
    names = ("tensor_parallel", "pipeline_parallel", "context_parallel")
    degrees = {name: 1 if counts.get(name) is None else counts[name] for name in names}
    if (exchanged := counts.get("ulysses")) not in (*_NONE, 1):
        # A sequence is divided over ranks that exchange heads, or in another way: never in both.
        degrees["context_parallel"] = exchanged
        reading.keys["context_parallel"] = reading.keys["ulysses"]
    reading.tell(num_devices=reading.asked.gpus, **degrees)
    degree, stages, context = (degrees[name] for name in names)
    reading.mesh(degree, stages, context, counts.get("virtual") or 1)
    reading.offload("none", "none")
    if degrees["context_parallel"] != 1:
        reading.no_formula("gptplan has no context parallelism")
    copies, shard = (counts.get(name) for name in ("replicate", "shard"))
    given = counts.get("given_parallel")
    if shard is None and copies is not None and "-1" not in table.ignored:
        shard = 1
    if shard is not None and UNDECIDED not in (copies, shard):
        given = (copies or 1) * shard
        reading.keys["given_parallel"] = reading.keys.get("shard") or reading.keys.get("replicate", "")
    if copies not in (None, 1):
        reading.no_formula("gptplan shards over all data-parallel ranks or none")
    told = counts.get("gpus_told")
    if counts.get("nodes") not in _NONE and counts.get("per_node") not in _NONE:
        told = counts["nodes"] * counts["per_node"]
        reading.keys["gpus_told"] = reading.keys.get("nodes", "")
    reading.tell(given_parallel=given, gpus_told=told)
    reading.tell(data_parallel=reading.ranks())


def _states(keys: Keys, reading: Reading, table: Table, counts: dict[str, Any]) -> None:
    read: dict[str, Any] = {"recompute": False, "sequence_parallel": False, "precision": "fp32", "zero_stage": 0}
    read |= {name: value for name, value in table.defaults.items() if name in read}
    for name, flags in table.flags.items():
        value = next((keys.flag(key, name=name) for key in flags if keys.given(key)), False)
        read["zero_stage" if name == "sharded" else name] = (
            int(value) if name == "sharded" and value in (True, False) else value
        )
    for name, (key, meanings) in table.choices.items():
        if not keys.has(key):
            continue
        content = keys.raw(key, name=name)
        known = isinstance(content, int | float | str | None) and content in meanings
        read[name] = meanings[content] if known else UNDECIDED
    _sharding(keys, reading, read)
    stage = counts.get("zero_stage")
    if stage is not None:
        # nanotron knows whether optimizer states are divided, and takes any stage for it.
        read["zero_stage"] = min(stage, 1) if table.is_llama and stage is not UNDECIDED else stage
    if table.has_deepspeed:
        _precision(keys, reading, read)
    read["sequence_parallel"] = read["sequence_parallel"] is True and reading.fields["tensor_parallel"] != 1
    if any(read.get(f"offload.{part}", 0.0) == 1.0 for part in ("optimizer", "parameters")):
        read["offload.tier"] = "cpu"
    staged = counts.get("pipeline_parallel") not in _NONE and table.has_deepspeed
    reading.tell(zero_stage=read["zero_stage"], staged=staged or reading.known("pipeline_parallel", 1) > 1)
    reading.fields |= read


def _sharding(keys: Keys, reading: Reading, read: dict[str, Any]) -> None:
    """What the kind of distribution makes of the sections of accelerate, each of which counts for its own kind."""
    kind = keys.plain("distributed_type")
    reshard, everything = read.pop("reshard", None), read.pop("offload_all", 0.0)
    if kind == "FSDP":
        if not keys.given("fsdp_config.fsdp_sharding_strategy"):
            read["zero_stage"] = 3 if reshard is None else reshard
        if everything == 1.0:
            read |= {"offload.optimizer": 1.0, "offload.parameters": 1.0}
    elif kind == "DEEPSPEED":
        own_file = keys.given("deepspeed_config.deepspeed_config_file")
        read["zero_stage"] = UNDECIDED if own_file else 2
        if own_file:
            keys.left_open("deepspeed_config.deepspeed_config_file", "that file says how states are divided")


def _precision(keys: Keys, reading: Reading, read: dict[str, Any]) -> None:
    """What DeepSpeed's switches say; GPT-NeoX refuses them beside another ``precision``."""
    brain, half = (keys.flag(f"{kind}.enabled", name="precision") for kind in ("bf16", "fp16"))
    if half is True and keys.plain("fp16.type") == "bfloat16":
        brain, half = True, False
    switched = "bf16" if brain is True else "fp16" if half is True else None
    if not keys.has("precision"):
        read["precision"] = switched or "fp32"
    elif switched is not None:
        reading.tell(precision=read["precision"], other_precision=switched)


def _model(keys: Keys, reading: Reading, table: Table, counts: dict[str, Any]) -> None:
    seq_len = counts.get("seq_len")
    reading.fields["seq_len"] = reading.asked.seq_len if seq_len is None else seq_len
    sizes = [counts.get(name) for name in ("num_layers", "hidden_size", "num_heads")]
    reading.tell(layers=counts.get("num_layers"))
    if reading.model is not None or any(size in _NONE for size in sizes) or seq_len in _NONE:
        return
    layers, hidden, heads = sizes
    optional = {name: counts.get(name) for name in ("ffn_hidden_size", "vocab_size", "max_seq_len")}
    known = {name: None if value in _NONE else value for name, value in optional.items()}
    reading.model = model_of_sizes(
        "the model of the file",
        "the file",
        name=f"{table.dialect.name}-{layers}x{hidden}",
        num_layers=layers,
        hidden_size=hidden,
        num_heads=heads,
        ffn_hidden_size=known["ffn_hidden_size"] or 4 * (hidden or 1),
        vocab_size=known["vocab_size"] or table.defaults.get("vocab_size", 50257),
        max_seq_len=max(known["max_seq_len"] or 1, seq_len or 1),
        dropout=0.0,
        seq_len=seq_len,
        **_parts(keys, table, heads or 1, counts.get("kv_heads")),
        tied_embeddings=keys.flag(table.tying[0], default=table.tying[1]) is table.tying[1],
    )


def _parts(keys: Keys, table: Table, heads: int, kv_heads: Any) -> dict[str, Any]:
    """The parts of a model that are not GPT-2's."""
    for key in table.unmodelled:
        if keys.has(key) and keys.raw(key) not in OF_GPT2:
            keys.reading.no_formula(f"{key} is not read")
    if not table.is_llama:
        if keys.raw("pos_emb") == "rotary":
            keys.reading.assumptions.append("rotary positions are costed as learned ones")
        return {}
    groups = None if kv_heads in (*_NONE, heads) else kv_heads
    return {
        "attention": AttentionSpec(kv_heads=groups, qkv_bias=False, output_bias=False),
        "positions": PositionSpec(kind="rotary"),
        "mlp": MlpSpec(gated=True, activation="silu", bias=False),
        "norm": NormSpec(kind="rmsnorm"),
    }


def _batch(reading: Reading, counts: dict[str, Any], table: Table) -> None:
    fields, asked = reading.fields, reading.asked
    micro, accumulation, local = (counts.get(name) for name in ("micro_batch", "accumulation", "local_batch"))
    total = asked.global_batch if counts.get("global_batch") is None else counts["global_batch"]
    fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
    ranks = reading.ranks()
    if UNDECIDED in (micro, accumulation, local, total) or ranks is None:
        return
    if local:
        micro = _piece(reading, counts, local, fields["pipeline_parallel"])
        if micro is UNDECIDED:
            return
    elif micro is None:
        micro = max(1, (total or ranks) // ranks // (accumulation or 1))
    reading.tell(micro_batch=local or micro, global_batch=total, accumulation=accumulation)
    if accumulation is None:
        accumulation = max(1, (total or (local or micro) * ranks) // (micro * ranks))
    if total is None and local is None and "accumulation" not in reading.facts:
        reading.assumptions.append("the file names no batch: one micro batch a rank is taken")
    fields |= {"micro_batch": micro, "num_microbatches": accumulation}
    if local:
        reading.keys["micro_batch"] = reading.keys.get("local_batch", "")
    reading.keys.setdefault(
        "num_microbatches", reading.keys.get("accumulation") or reading.keys.get("global_batch", "")
    )


def _piece(reading: Reading, counts: dict[str, Any], local: int, stages: int) -> Any:
    """Sequences of a turn of torchtitan's pipeline: one unless it is said; its first versions name how many turns."""
    if stages == 1:
        return local
    old = reading.keys.get("pipeline_parallel", "").startswith("experimental")
    unit = counts.get("pieces") or stages if old else counts.get("micro_batch") or 1
    if unit is UNDECIDED:
        return UNDECIDED
    reading.tell(local_batch=local, batch_unit=unit)
    return max(1, local // unit) if old else unit
