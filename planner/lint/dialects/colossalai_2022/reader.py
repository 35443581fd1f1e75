"""Colossal-AI's configuration files of 2022, as the examples of GPT-2 and GPT-3 have them."""

from difflib import get_close_matches
from typing import Any

from planner.codes import Config
from planner.diagnostics import Diagnostic
from planner.layouts.degrees import GRID_MODES, grid_batch_parts, grid_edge, grid_ranks
from planner.lint.dialects.colossalai_2022.keys import BATCH, BY_HAND, DIALECT, MODES, OWN, SECTIONS
from planner.lint.dialects.nvme import read_nvme
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.model_names import model_named
from planner.lint.reading import Keys, Reading, Unknowns, refuse_unknown
from planner.lint.source import Source, Symbol, Unknown


def read_old_config(source: Source, asked: Asked) -> Draft:
    """The layout of the file, and the facts of the rules of the old modes."""
    reading = Reading(DIALECT, source, asked)
    keys = Keys(reading)
    _names(source, reading)
    _model(keys, reading)
    _tensor(keys, reading)
    _pipeline(keys, reading)
    _states(keys, reading)
    _batch(keys, reading)
    _facts(keys, reading)
    if reading.fields["offload.tier"] == "nvme":
        read_nvme(
            keys, "zero.offload_optimizer_config", "zero.offload_param_config", "zero.model_config.offload_config"
        )
    return reading.draft()


def _names(source: Source, reading: Reading) -> None:
    """Keys that are nearly called like one that is read, and names that nothing defines."""
    # A constant that the file itself uses is its author's, unless what it is nearly called is not there.
    own = {key: value for key, value in source.settings.items() if "." in key or source.text.count(key) == 1}
    missing = SECTIONS[""][1] - source.settings.keys()
    for table, (cutoff, known) in SECTIONS.items():
        refuse_unknown(Keys(reading, own), table, known, Unknowns("the library reads no {name}", cutoff, far=False))
    used = {key: value for key, value in source.settings.items() if key not in own}
    refuse_unknown(Keys(reading, used), "", missing, Unknowns("the library reads no {name}", 0.9, far=False))
    for name, (line, column) in source.undefined.items():
        there = [key for key in (*source.settings, *SECTIONS[""][1]) if "." not in key]
        near = get_close_matches(name, there, n=1, cutoff=0.85)
        if near:
            found = Diagnostic(
                rule=Config.UNKNOWN_KEY,
                message=f"{name} is used, and nothing before defines it",
                hint=f"did you mean `{near[0]}`?" if near[0] != name else f"define {name} above",
                location=f"{source.shown}:{line}:{column}",
                values={"key": name},
            )
            reading.diagnostics.append(found)


def _model(keys: Keys, reading: Reading) -> None:
    named = keys.plain("model.type", "model", "MODEL", name="model")
    if reading.model is None and isinstance(named, str):
        reading.model = model_named(named)
    reading.fields["recompute"] = keys.flag(
        "model.checkpoint", "model.use_grad_checkpoint", "CHECKPOINT", name="recompute"
    )


def _tensor(keys: Keys, reading: Reading) -> None:
    def constants(*names: str) -> tuple[str, ...]:
        return () if keys.has("parallel") else names

    degree = keys.count("parallel.tensor.size", *constants("TENSOR_PARALLEL"), default=1, name="tensor_parallel")
    mode = keys.choice(
        "parallel.tensor.mode",
        *constants("MODE"),
        choices=MODES,
        name="tensor_mode",
        default="1d" if keys.has(*constants("TENSOR_PARALLEL")) else None,
    )
    depth = keys.count("parallel.tensor.depth", *constants("DEPTH"), default=1, name="tensor_depth")
    stages = keys.count(
        "parallel.pipeline.size", "parallel.pipeline", *constants("PIPELINE"), default=1, name="pipeline_parallel"
    )
    if mode == "sequence":
        reading.no_formula("gptplan does not have the sequence mode of 2022")
        mode = UNDECIDED
    reading.fields |= {
        "tensor_parallel": degree,
        "tensor_mode": mode if mode is UNDECIDED else "none" if mode is None or degree == 1 else mode,
        "tensor_depth": 1 if degree == 1 and mode is not UNDECIDED else depth,
        "pipeline_parallel": stages,
    }
    if keys.has(*constants("TENSOR_PARALLEL", "PIPELINE", "MODE")):
        reading.assumptions.append(
            "the file has no parallel dict: TENSOR_PARALLEL, MODE, DEPTH and PIPELINE stand for it"
        )


def _pipeline(keys: Keys, reading: Reading) -> None:
    chunks = keys.count("model.num_chunks", "NUM_CHUNKS", default=1, name="num_model_chunks")
    reading.schedule(reading.fields["pipeline_parallel"], chunks)


def _states(keys: Keys, reading: Reading) -> None:
    level: Any = 0
    if keys.has("zero.level", "zero.stage"):
        level = keys.count("zero.level", "zero.stage", name="zero_stage", least=0)
        if level is not UNDECIDED and level > 3:  # noqa: PLR2004 - ZeRO has three stages
            keys.choice("zero.level", "zero.stage", choices=(0, 1, 2, 3), name="zero_stage")
            level = UNDECIDED
    elif keys.has("zero.model_config", "zero.optimizer_config", "zero.offload_param_config"):
        level = 3
        reading.keys["zero_stage"] = "zero"
    elif keys.has("zero"):
        table = keys.raw("zero")
        level = UNDECIDED if table is UNDECIDED else 3 if table else 0
    _offload(keys, reading)
    half = _half(keys) or level is UNDECIDED or level > 0 or "half" in str(keys.raw("model.dtype", default=""))
    reading.fields |= {"zero_stage": level, "precision": "fp16" if half else "fp32", "sequence_parallel": False}


def own_trainer(keys: Keys) -> bool:
    """Whether another trainer than that of the examples reads the file: it has no batch, or that of a table."""
    return not keys.has(*OWN[1:], "BATCH_SIZE")


def _half(keys: Keys) -> bool:
    """Whether mixed precision is asked for; without a mode it is off."""
    return keys.has("fp16") and not (keys.has("fp16.mode") and keys.raw("fp16.mode") is None)


def _offload(keys: Keys, reading: Reading) -> None:
    shared = ("zero.model_config.offload_config.device", "zero.offload_config.device")
    placed = keys.raw("zero.model_config.tensor_placement_policy", default="cuda", name="offload.optimizer")
    optimizer = keys.raw("zero.offload_optimizer_config.device", *shared, default="none", name="offload.optimizer")
    parameters = keys.raw("zero.offload_param_config.device", *shared, default="none", name="offload.parameters")
    to_host = keys.flag("zero.cpu_offload", name="offload.optimizer")
    if placed == "cpu":
        optimizer = parameters = "cpu"
    if to_host is True and optimizer == "none":
        optimizer = "cpu"
    reading.offload(optimizer, parameters)


def _batch(keys: Keys, reading: Reading) -> None:
    fields = reading.fields
    batch = keys.count(*BATCH, name="batch_size")
    cut = keys.count("NUM_MICRO_BATCHES", name="num_micro_batches")
    accumulated = keys.count("gradient_accumulation", default=1, name="gradient_accumulation")
    fields["seq_len"] = keys.count("SEQ_LEN", "SEQ_LENGTH", default=reading.asked.seq_len, name="seq_len")
    reading.keys |= {"micro_batch": reading.keys.get("batch_size", ""), "num_microbatches": "NUM_MICRO_BATCHES"}
    piped = fields["pipeline_parallel"] is UNDECIDED or fields["pipeline_parallel"] > 1
    pieces = (cut if cut is not None else fields["pipeline_parallel"]) if piped else 1
    if own_trainer(keys) and cut is None and piped:
        pieces = UNDECIDED
    if UNDECIDED in (batch, pieces, accumulated):
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    if batch is None:
        share = _share(reading)
        batch = pieces * share
        sequences = "sequence" if share == 1 else "sequences"
        reading.assumptions.append(f"the file has no BATCH_SIZE: {share} {sequences} a micro batch is taken")
    fields |= {"micro_batch": max(1, batch // pieces), "num_microbatches": pieces * accumulated}
    if pieces > 1:
        reading.spoken["micro_batch"] = "BATCH_SIZE / NUM_MICRO_BATCHES"
    deep = fields["tensor_mode"] == "2.5d" and UNDECIDED not in (fields["tensor_parallel"], fields["tensor_depth"])
    if deep and fields["micro_batch"] % _edge(reading) == 0:
        # Colossal-AI splits the batch by the edge alone; gptplan's runtime by the depth as well.
        reading.warns.add("grid-batch")


def _edge(reading: Reading) -> int:
    """Edge of the grid of mode 2D, 2.5D or 3D; 1 where there is none, or where it is not known."""
    fields = reading.fields
    if not reading.decided("tensor_mode", "tensor_parallel", "tensor_depth"):
        return 1
    degree, depth = fields["tensor_parallel"], fields["tensor_depth"]
    edge: int = grid_edge(fields["tensor_mode"], degree, depth)
    return edge


def _share(reading: Reading) -> int:
    """The least micro batch that the grid splits."""
    mode, depth = reading.known("tensor_mode"), reading.known("tensor_depth", 1)
    parts: int = grid_batch_parts(mode, _edge(reading), depth)
    return parts


def _facts(keys: Keys, reading: Reading) -> None:
    fields, model = reading.fields, reading.model
    reading.tell(
        batch_size=keys.count(*BATCH),
        num_micro_batches=keys.count("NUM_MICRO_BATCHES"),
        seq_len=fields["seq_len"],
        pipeline=fields["pipeline_parallel"],
        tensor_parallel=fields["tensor_parallel"],
        zero_level=fields["zero_stage"],
        hidden_size=keys.count("HIDDEN_SIZE", name="hidden_size"),
        fp16=None if own_trainer(keys) else _half(keys),
        has_micro_batches=None if own_trainer(keys) else keys.has("NUM_MICRO_BATCHES"),
        num_devices=reading.asked.gpus,
        fp16_mode=keys.raw("fp16.mode", name="fp16_mode"),
        model=model and model.name,
        model_hidden_size=model and model.hidden_size,
    )
    reading.keys |= {"pipeline": reading.keys.get("pipeline_parallel", ""), "fp16": "fp16"}
    by_hand = keys.get(*BY_HAND)
    if by_hand is not None:
        reading.tell(data_parallel_by_hand=True, data_parallel_key=by_hand[0])
        reading.keys["data_parallel_by_hand"] = by_hand[0]
    _shape(keys, reading)
    _unused_constants(keys, reading)


def _shape(keys: Keys, reading: Reading) -> None:
    facts, fields = reading.facts, reading.fields
    shape = keys.raw("TENSOR_SHAPE", name="tensor_shape")
    hidden = facts.get("hidden_size", facts.get("model_hidden_size"))
    whole = isinstance(shape, tuple) and all(isinstance(size, int | float) for size in shape)
    known = {"batch_size", "num_micro_batches", "seq_len"} <= facts.keys()
    if not (whole and known and hidden) or not reading.decided("tensor_mode", "tensor_parallel", "tensor_depth"):
        return
    mode, degree, depth = fields["tensor_mode"], fields["tensor_parallel"], fields["tensor_depth"]
    edge = grid_edge(mode, degree, depth)
    micro = facts["batch_size"] // facts["num_micro_batches"]
    square = mode not in GRID_MODES or grid_ranks(mode, edge, depth) == degree
    if mode == "3d" or not square or micro % edge or hidden % edge:
        return
    reading.tell(
        tensor_shape=shape,
        expected_shape=(micro // edge, facts["seq_len"], hidden // edge),
        hidden_size=hidden,
        divided=f" / {edge}" if edge > 1 else "",
    )


def _unused_constants(keys: Keys, reading: Reading) -> None:
    """A constant such as PIPELINE beside a parallel dict that says something else."""
    for constant, used in (
        ("PIPELINE", "parallel.pipeline"),
        ("TENSOR_PARALLEL", "parallel.tensor.size"),
        ("MODE", "parallel.tensor.mode"),
        ("DEPTH", "parallel.tensor.depth"),
    ):
        if not (keys.has(constant) and keys.has(used)) or keys.name(used) not in (used, constant):
            continue
        left, right = (keys.settings[key].content for key in (constant, used))
        if left != right and not isinstance(left, Symbol | Unknown) and not isinstance(right, Symbol | Unknown | dict):
            # None is a value here.
            reading.facts |= {"unused_constant": left, "unused_key": constant, "used_key": used, "used_value": right}
            reading.keys["unused_constant"] = constant
            return
