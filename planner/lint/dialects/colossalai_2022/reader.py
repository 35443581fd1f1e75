"""Colossal-AI's configuration files of 2022, as the examples of GPT-2 and GPT-3 have them."""

from typing import Any

from planner.layouts.degrees import GRID_MODES, grid_batch_parts, grid_edge, grid_ranks
from planner.lint.dialects.colossalai_2022.rules import OLD
from planner.lint.draft import OWN_RULES, UNDECIDED, Asked, Draft, Keys
from planner.lint.model_names import model_named
from planner.lint.nvme import nvme_facts
from planner.lint.source import Source, Symbol, Unknown

MODES = (None, "1d", "2d", "2.5d", "3d")
MARKS = ("parallel", "TENSOR_PARALLEL", "NUM_MICRO_BATCHES", "BATCH_SIZE", "TENSOR_SHAPE", "PIPELINE", "zero", "fp16")
"""Keys by which such a file is recognised."""
_BY_HAND = (
    "DATA_PARALLEL",
    "DATA_PARALLEL_SIZE",
    "DP",
    "DP_SIZE",
    "DATA",
    "parallel.data",
    "parallel.data_parallel",
    "parallel.dp",
)
_WORDS = {
    "tensor_parallel": "TENSOR_PARALLEL",
    "pipeline_parallel": "PIPELINE",
    "tensor_mode": "MODE",
    "tensor_depth": "DEPTH",
    "micro_batch": "BATCH_SIZE",
    "num_microbatches": "NUM_MICRO_BATCHES",
    "seq_len": "SEQ_LEN",
    "zero_stage": "zero.level",
}


def read_old_config(source: Source, asked: Asked) -> Draft:
    """The layout of the file, and the facts of the rules of the old modes."""
    draft = Draft(
        dialect=OLD,
        framework="Colossal-AI configuration",
        stack="colossalai",
        words=_WORDS,
        own_rules=(*OWN_RULES, "ZER001", "ZER003", "TP005", "OFF002", "OFF003", "PP004"),
    )
    draft.settings = source.settings
    keys = Keys(source, draft.settings, draft)
    _model(keys, draft, asked)
    _tensor(keys, draft)
    _pipeline(keys, draft)
    _states(keys, draft)
    _batch(keys, draft, asked)
    _facts(keys, draft, asked)
    _nvme(keys, draft, asked)
    return draft


def _model(keys: Keys, draft: Draft, asked: Asked) -> None:
    named = keys.plain("model.type", "model", "MODEL", name="model")
    draft.model = asked.model
    if draft.model is None and isinstance(named, str):
        draft.model = model_named(named)
    if isinstance(named, str):
        draft.facts["model_name"] = str(named)
    recompute = keys.flag("model.checkpoint", "CHECKPOINT", name="recompute")
    draft.fields["recompute"] = recompute


def _tensor(keys: Keys, draft: Draft) -> None:
    fields = draft.fields
    fields["tensor_parallel"] = keys.count(
        "parallel.tensor.size", *_unless(keys, "parallel", "TENSOR_PARALLEL"), default=1, name="tensor_parallel"
    )
    mode = keys.choice(
        "parallel.tensor.mode",
        *_unless(keys, "parallel", "MODE"),
        choices=MODES,
        name="tensor_mode",
        default="1d" if not keys.has("parallel") and keys.has("TENSOR_PARALLEL") else None,
    )
    degree = fields["tensor_parallel"]
    fields["tensor_mode"] = mode if mode is UNDECIDED else "none" if mode is None or degree == 1 else mode
    depth = keys.count("parallel.tensor.depth", *_unless(keys, "parallel", "DEPTH"), default=1, name="tensor_depth")
    fields["tensor_depth"] = 1 if degree == 1 and mode is not UNDECIDED else depth
    if not keys.has("parallel") and keys.has("TENSOR_PARALLEL", "PIPELINE", "MODE"):
        draft.assumptions.append(
            "the file has no parallel dict: TENSOR_PARALLEL, MODE, DEPTH and PIPELINE stand for it"
        )


def _unless(keys: Keys, table: str, *others: str) -> tuple[str, ...]:
    return () if keys.has(table) else others


def _pipeline(keys: Keys, draft: Draft) -> None:
    stages = keys.count(
        "parallel.pipeline.size",
        "parallel.pipeline",
        *_unless(keys, "parallel", "PIPELINE"),
        default=1,
        name="pipeline_parallel",
    )
    chunks = keys.count("model.num_chunks", "NUM_CHUNKS", default=1, name="num_model_chunks")
    draft.fields |= {
        "pipeline_parallel": stages,
        "num_model_chunks": chunks if stages != 1 else 1,
        "schedule": UNDECIDED
        if UNDECIDED in (stages, chunks)
        else "none"
        if stages == 1
        else "interleaved"
        if chunks > 1
        else "1f1b",
    }


def _states(keys: Keys, draft: Draft) -> None:
    level: Any = 0
    if keys.has("zero.level", "zero.stage"):
        level = keys.count("zero.level", "zero.stage", name="zero_stage", least=0)
        if level is not UNDECIDED and level > 3:  # noqa: PLR2004 - ZeRO has three stages
            keys.choice("zero.level", "zero.stage", choices=(0, 1, 2, 3), name="zero_stage")
            level = UNDECIDED
    elif keys.has("zero.model_config", "zero.optimizer_config", "zero.offload_param_config"):
        level = 3
        draft.keys["zero_stage"] = "zero"
    elif keys.has("zero") and (keys.raw("zero") or keys.raw("zero") == {}):
        level = UNDECIDED if keys.raw("zero") is UNDECIDED else 3 if keys.raw("zero") else 0
    draft.fields["zero_stage"] = level
    _offload(keys, draft)
    half = keys.has("fp16") or level is UNDECIDED or level > 0 or "half" in str(keys.raw("model.dtype", default=""))
    draft.fields["precision"] = "fp16" if half else "fp32"
    draft.fields["sequence_parallel"] = False


def _offload(keys: Keys, draft: Draft) -> None:
    placed = keys.raw("zero.model_config.tensor_placement_policy", default="cuda", name="offload.optimizer")
    optimizer = keys.raw(
        "zero.offload_optimizer_config.device",
        "zero.model_config.offload_config.device",
        default="none",
        name="offload.optimizer",
    )
    parameters = keys.raw(
        "zero.offload_param_config.device",
        "zero.model_config.offload_config.device",
        default="none",
        name="offload.parameters",
    )
    to_host = keys.flag("zero.cpu_offload", name="offload.optimizer")
    if placed == "cpu":
        optimizer = parameters = "cpu"
    if to_host is True and optimizer == "none":
        optimizer = "cpu"
    devices = {str(optimizer), str(parameters)}
    draft.fields |= {
        "offload.optimizer": float(optimizer in ("cpu", "nvme")),
        "offload.parameters": float(parameters in ("cpu", "nvme")),
        "offload.tier": "nvme" if "nvme" in devices else "cpu" if "cpu" in devices else "none",
    }


def _batch(keys: Keys, draft: Draft, asked: Asked) -> None:
    fields = draft.fields
    batch = keys.count("BATCH_SIZE", name="batch_size")
    cut = keys.count("NUM_MICRO_BATCHES", name="num_micro_batches")
    accumulated = keys.count("gradient_accumulation", default=1, name="gradient_accumulation")
    fields["seq_len"] = keys.count("SEQ_LEN", "SEQ_LENGTH", default=asked.seq_len, name="seq_len")
    draft.keys |= {"micro_batch": draft.keys.get("batch_size", ""), "num_microbatches": "NUM_MICRO_BATCHES"}
    piped = fields["pipeline_parallel"] is UNDECIDED or fields["pipeline_parallel"] > 1
    pieces = (cut if cut is not None else fields["pipeline_parallel"]) if piped else 1
    if UNDECIDED in (batch, pieces, accumulated):
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    if batch is None:
        share = _share(draft)
        batch = pieces * share
        sequences = "sequence" if share == 1 else "sequences"
        draft.assumptions.append(f"the file has no BATCH_SIZE: {share} {sequences} a micro batch is taken")
    fields |= {"micro_batch": max(1, batch // pieces), "num_microbatches": pieces * accumulated}
    if pieces > 1:
        draft.spoken["micro_batch"] = "BATCH_SIZE / NUM_MICRO_BATCHES"
    deep = fields["tensor_mode"] == "2.5d" and UNDECIDED not in (fields["tensor_parallel"], fields["tensor_depth"])
    if deep and fields["micro_batch"] % _edge(draft) == 0:
        # Colossal-AI splits the batch by the edge alone; gptplan's runtime by the depth as well.
        draft.own_rules = (*draft.own_rules, "TP023")


def _edge(draft: Draft) -> int:
    """Edge of the grid of mode 2D, 2.5D or 3D; 1 where there is none, or where it is not known."""
    fields = draft.fields
    if not draft.decided("tensor_mode", "tensor_parallel", "tensor_depth"):
        return 1
    degree, depth = fields["tensor_parallel"], fields["tensor_depth"]
    edge: int = grid_edge(fields["tensor_mode"], degree, depth)
    return edge


def _share(draft: Draft) -> int:
    """The least micro batch that the grid splits."""
    parts: int = grid_batch_parts(draft.known("tensor_mode"), _edge(draft), draft.known("tensor_depth", 1))
    return parts


def _facts(keys: Keys, draft: Draft, asked: Asked) -> None:
    found: dict[str, Any] = {
        "batch_size": keys.count("BATCH_SIZE"),
        "num_micro_batches": keys.count("NUM_MICRO_BATCHES"),
        "seq_len": draft.fields["seq_len"],
        "pipeline": draft.fields["pipeline_parallel"],
        "tensor_parallel": draft.fields["tensor_parallel"],
        "zero_level": draft.fields["zero_stage"],
        "hidden_size": keys.count("HIDDEN_SIZE", name="hidden_size"),
        "fp16": keys.has("fp16"),
        "has_micro_batches": keys.has("NUM_MICRO_BATCHES"),
        "num_devices": asked.gpus,
        "fp16_mode": keys.raw("fp16.mode", name="fp16_mode"),
    }
    draft.keys |= {"pipeline": draft.keys.get("pipeline_parallel", ""), "fp16": "fp16"}
    if draft.model is not None:
        found |= {"model_hidden_size": draft.model.hidden_size, "model": draft.model.name}
    by_hand = keys.get(*_BY_HAND)
    if by_hand is not None:
        found |= {"data_parallel_by_hand": True, "data_parallel_key": by_hand[0]}
        draft.keys["data_parallel_by_hand"] = by_hand[0]
    draft.facts |= {name: value for name, value in found.items() if value is not UNDECIDED and value is not None}
    _shape(keys, draft)
    _unused_constants(keys, draft)


def _shape(keys: Keys, draft: Draft) -> None:
    facts, fields = draft.facts, draft.fields
    shape = keys.raw("TENSOR_SHAPE", name="tensor_shape")
    hidden = facts.get("hidden_size", facts.get("model_hidden_size"))
    whole = isinstance(shape, tuple) and all(isinstance(size, int | float) for size in shape)
    known = {"batch_size", "num_micro_batches", "seq_len"} <= facts.keys()
    if not (whole and known and hidden) or not draft.decided("tensor_mode", "tensor_parallel", "tensor_depth"):
        return
    mode, degree, depth = fields["tensor_mode"], fields["tensor_parallel"], fields["tensor_depth"]
    edge = grid_edge(mode, degree, depth)
    micro = facts["batch_size"] // facts["num_micro_batches"]
    square = mode not in GRID_MODES or grid_ranks(mode, edge, depth) == degree
    if mode == "3d" or not square or micro % edge or hidden % edge:
        return
    facts |= {
        "tensor_shape": shape,
        "expected_shape": (micro // edge, facts["seq_len"], hidden // edge),
        "hidden_size": hidden,
        "divided": f" / {edge}" if edge > 1 else "",
    }


def _unused_constants(keys: Keys, draft: Draft) -> None:
    """A constant such as PIPELINE beside a parallel dict that says something else."""
    pairs = (
        ("PIPELINE", "parallel.pipeline"),
        ("TENSOR_PARALLEL", "parallel.tensor.size"),
        ("MODE", "parallel.tensor.mode"),
        ("DEPTH", "parallel.tensor.depth"),
    )
    for constant, used in pairs:
        if not (keys.has(constant) and keys.has(used)) or keys.name(used) not in (used, constant):
            continue
        left, right = (keys.settings[key].content for key in (constant, used))
        if left != right and not isinstance(left, Symbol | Unknown) and not isinstance(right, Symbol | Unknown | dict):
            draft.facts |= {"unused_constant": left, "unused_key": constant, "used_key": used, "used_value": right}
            draft.keys["unused_constant"] = constant
            return


def _nvme(keys: Keys, draft: Draft, asked: Asked) -> None:
    tables = ("zero.offload_optimizer_config", "zero.offload_param_config")
    if draft.fields["offload.tier"] != "nvme":
        return
    devices = {table: keys.raw(f"{table}.device") for table in tables}
    paths = [keys.raw(f"{table}.nvme_path", name="nvme_path") for table in tables if devices[table] == "nvme"]
    key = next(f"{table}.device" for table in tables if devices[table] == "nvme")
    draft.keys |= {"nvme_path": key.replace("device", "nvme_path"), "nvme_device": key}
    add_nvme_facts(draft, asked, next((path for path in paths if isinstance(path, str)), None))


def add_nvme_facts(draft: Draft, asked: Asked, path: str | None) -> None:
    """Facts of the rules about NVMe: the folder, and the bytes that the states of a node take there."""
    from planner.cost_model.parameters import model_parameters  # noqa: PLC0415 - NumPy only where it is needed
    from planner.specs.units import format_gib  # noqa: PLC0415

    draft.facts |= {"nvme_device": "nvme", "has_nvme_path": path is not None}
    if path is None:
        return
    draft.facts |= nvme_facts(path)
    free = draft.facts.get("nvme_free_bytes")
    if draft.model is None or free is None:
        return
    nodes = -(-asked.gpus // asked.devices_per_node)
    parameters = sum(model_parameters(draft.model).values())
    per_parameter = 12 * draft.known("offload.optimizer", 0.0) + 2 * draft.known("offload.parameters", 0.0)
    need = round(per_parameter * parameters / nodes)
    draft.facts |= {
        "nvme_need_bytes": need,
        "nvme_need": format_gib(need),
        "nvme_free": format_gib(free),
        "nvme_nodes": nodes,
        "nvme_missing": format_gib(max(0, need - free)),
        "nvme_parameters": f"{parameters:,}",
        "nvme_bytes_per_parameter": f"{per_parameter:g}",
    }
