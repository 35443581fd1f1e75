"""Today's Colossal-AI: the keyword arguments of its plugins, in a training script or a data file."""

from collections.abc import Callable, Mapping
from typing import Any

from planner.codes import Config
from planner.diagnostics import Diagnostic
from planner.layouts.division import CHUNKED
from planner.lint.dialects.plugins.keys import (
    ARGUMENTS,
    BATCH,
    CONTEXT,
    DDP,
    DIALECTS,
    GEMINI,
    HYBRID,
    LOW_LEVEL_ZERO,
    MIXED_PRECISIONS,
    OPTIMIZERS,
    PIPELINE_STYLES,
    REQUIRED,
    SEQUENCE,
    SEQUENCE_MODES,
)
from planner.lint.dialects.plugins.model import read_model
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.limits import Budget
from planner.lint.reading import Keys, Reading
from planner.lint.source import Source, Symbol, Value, flatten
from planner.specs.files import did_you_mean


def read_plugin(
    source: Source,
    name: str,
    arguments: Mapping[str, Value],
    asked: Asked,
    *,
    whole_call: bool = False,
    of_experts: Mapping[str, Value] | None = None,
) -> Draft:
    """The layout that a plugin with these arguments gives; ``whole_call`` where they are all that a script gives it.

    ``of_experts``: all arguments of the plugin that has experts, which is read as the one that it extends.
    """
    reading = Reading(DIALECTS[name], source, asked)
    arguments = flatten(arguments, Budget(source.shown))
    if source.language != "python" and all(source.settings.get(key) is value for key, value in arguments.items()):
        arguments = {key: value for key, value in arguments.items() if key.partition(".")[0] not in CONTEXT}
    reading.settings = {**source.settings, **arguments}
    if whole_call:
        reading.tell(missing_argument=next((key for key in REQUIRED.get(name, ()) if key not in arguments), None))
    keys = Keys(reading, arguments)
    context = Keys(reading, {key: value for key, value in source.settings.items() if key not in arguments})
    _refuse_unknown(keys, reading, name)
    _context(context, reading)
    _READERS[name](keys, reading)
    _batch(context, reading)
    if of_experts is not None:
        _experts(of_experts, reading)
    return reading.draft()


def _experts(arguments: Mapping[str, Value], reading: Reading) -> None:
    """What the plugin with experts has beside the one that it extends; experts of a script's model are not known."""
    reading.settings = {**reading.settings, **arguments}
    keys = Keys(reading, arguments)
    reading.keys["ep_size"] = "ep_size"
    degree, overlaps = keys.count("ep_size"), keys.flag("overlap_communication", name="overlap_communication")
    stage = arguments.get("zero_stage")
    turned = "zero_stage 2" if stage is not None and stage.content == 2 else None  # noqa: PLR2004 - a stage of ZeRO
    turned = "overlap_communication" if overlaps is True else turned
    reading.tell(ep_size=degree, turned_to_zero_1=turned)
    reading.keys["turned_to_zero_1"] = "overlap_communication" if overlaps is True else "zero_stage"
    if reading.model is not None and reading.model.experts is not None:
        reading.fields["expert_parallel"] = degree
        reading.keys["expert_parallel"] = "ep_size"
    else:
        reading.no_formula("the model's experts are not known: name it with --model")


def _refuse_unknown(keys: Keys, reading: Reading, name: str) -> None:
    known, is_python = ARGUMENTS[name], keys.source.language == "python"
    for key, value in keys.settings.items():
        if key.partition(".")[0] in known or key in (*CONTEXT, "type") or ("." in key and not is_python):
            continue
        near = did_you_mean(key, set(known))
        if not is_python and not near:
            continue
        reading.diagnostics.append(
            Diagnostic(
                rule=Config.UNKNOWN_KEY,
                message=f"{name} has no argument {key}",
                hint=near or f"remove {key}",
                location=f"{keys.source.shown}:{value.line}: {key}",
                values={"key": key, "near": "".join(near.split("`")[1:2])},
            )
        )


def _context(context: Keys, reading: Reading) -> None:
    """What the script says outside of the plugin: batch, sequence, model, calls."""
    called = reading.source.called
    reading.mesh(1, 1)
    reading.fields |= {
        "zero_stage": 0,
        "sequence_parallel": False,
        "precision": "fp16",
        "recompute": "gradient_checkpointing_enable" in called,
    }
    reading.offload("none", "none")
    if not reading.fields["recompute"]:
        recompute = context.flag("gradient_checkpointing", "grad_checkpoint", "checkpoint", name="recompute")
        reading.fields["recompute"] = recompute
    reading.fields["seq_len"] = context.count(*SEQUENCE, default=reading.asked.seq_len, name="seq_len")
    read_model(context, reading)
    # Of several plugins, which branch of a script calls what cannot be told.
    alone = len({call.name for call in reading.source.calls}) <= 1
    reading.tell(
        num_devices=reading.asked.gpus,
        calls_no_sync=alone and "no_sync" in called,
        calls_lora=alone and "enable_lora" in called,
        uses_galore="DistGaloreAwamW" in called,
    )
    optimizers = [name for name in OPTIMIZERS if name in called]
    written = context.plain("optimizer.type", "optimizer", name="optimizer")
    if isinstance(written, str):
        optimizers = [str(written).rpartition(".")[2]]
    elif len(optimizers) == 1:
        _place(reading, "optimizer", optimizers[0])
    if len(optimizers) == 1:
        reading.tell(optimizer=optimizers[0])
    _place(reading, "calls_no_sync", "no_sync")
    _place(reading, "calls_lora", "enable_lora")


def _place(reading: Reading, fact: str, name: str) -> None:
    """Let a finding about a fact show where the script first uses a name."""
    if name in reading.source.called:
        line, column = reading.source.called[name]
        reading.settings = {**reading.settings, name: Value(content=True, line=line, column=column)}
        reading.keys[fact] = name


def _set_tensor(keys: Keys, reading: Reading) -> None:
    (degree,) = keys.read("tp_size")
    mode = UNDECIDED if degree is UNDECIDED else "1d" if degree > 1 else "none"
    reading.fields |= {"tensor_parallel": degree, "tensor_mode": mode}


def _precision(keys: Keys, reading: Reading, choices: tuple[str, ...]) -> Any:
    (precision,) = keys.read("precision")
    reading.choices["precision"] = choices
    reading.fields["precision"] = precision if precision in choices else UNDECIDED
    return precision


def _hybrid(keys: Keys, reading: Reading) -> None:
    _set_tensor(keys, reading)
    stages, stage = keys.read("pp_size", "zero_stage")
    _precision(keys, reading, ("fp16", "bf16", "fp32"))
    style, chunks = keys.read("pp_style", "num_model_chunks")
    _set_schedule(reading, stages, style, chunks)
    _set_sequence(keys, reading)
    layers = keys.raw("num_layers_per_stage", name="layers_per_stage")
    reading.keys["num_layers_per_stage"] = "num_layers_per_stage"
    reading.choices |= {"pp_style": PIPELINE_STYLES, "zero_stage": (0, 1, 2)}
    reading.fields |= {
        "pipeline_parallel": stages,
        "zero_stage": UNDECIDED if stage is UNDECIDED or stage > 3 else stage,  # noqa: PLR2004 - a stage of ZeRO
        "layers_per_stage": layers if _is_counts(layers) else None,
    }
    if keys.flag("cpu_offload", name="offload.optimizer") is True:
        reading.offload("cpu", "none")
    reading.tell(
        has_scheduler_nodes=keys.given("scheduler_nodes"),
        has_microbatches=keys.given("num_microbatches", "microbatch_size"),
        num_layers_per_stage=reading.fields["layers_per_stage"],
        num_layers=reading.model.num_layers if reading.model else None,
        family=reading.model.family if reading.model else None,
        is_tied=reading.model.tied_embeddings if reading.model else None,
        seq_len=reading.fields["seq_len"],
    )
    keys.read("num_microbatches", "microbatch_size", "inner_ring_size", "max_norm")


def _is_counts(layers: Any) -> bool:
    return isinstance(layers, tuple) and bool(layers) and all(type(n) is int and 0 <= n < 10**6 for n in layers)


def _set_schedule(reading: Reading, stages: Any, style: Any, chunks: Any) -> None:
    reading.schedule(stages, UNDECIDED if UNDECIDED in (style, chunks) else chunks if style in CHUNKED else 1)
    if style in CHUNKED and reading.fields["schedule"] not in ("none", UNDECIDED):
        # Even with the number of chunks of another one, which the plugin refuses: it goes by the name.
        reading.fields["schedule"] = style
    recomputes = reading.fields["recompute"]
    reading.tell(recomputes=None if recomputes is UNDECIDED else recomputes)
    reading.keys["recomputes"] = reading.keys.get("recompute", "")
    if style == "zbv" and stages != 1 and recomputes is True:
        reading.no_formula("what scheduler_nodes keep of layers that recompute is not counted")


def _set_sequence(keys: Keys, reading: Reading) -> None:
    (on,) = keys.read("enable_sequence_parallelism")
    mode = keys.word("sequence_parallelism_mode", default="all_to_all" if on is True else None)
    reading.tell(sequence_parallelism_mode=mode)
    reading.keys["sequence_parallelism_mode"] = "sequence_parallelism_mode"
    (groups,) = keys.read("sp_size")
    reading.choices["sequence_parallelism_mode"] = SEQUENCE_MODES
    in_tensor_group = mode in ("split_gather", "ring")
    reading.fields |= {
        "sequence_parallel": on if on is UNDECIDED else on and in_tensor_group,
        "context_parallel": 1 if in_tensor_group or on is not True else groups,
    }
    if on is True and mode == "all_to_all" and groups is not UNDECIDED:
        reading.divide_sequences()
    elif on is True and not in_tensor_group:
        reading.no_formula(f"gptplan has no sequence parallelism of mode {mode}")


def _gemini(keys: Keys, reading: Reading) -> None:
    _set_tensor(keys, reading)
    (extra,) = keys.read("extra_dp_size")
    _precision(keys, reading, ("fp16", "bf16"))
    (policy,) = keys.read("placement_policy")
    reading.choices["placement_policy"] = ("static", "auto")
    names = ("shard_param_frac", "offload_optim_frac", "offload_param_frac", "gpu_margin_mem_ratio")
    shares = dict(zip(names, keys.read(*names), strict=True))
    optimizer = _fraction(shares["offload_optim_frac"])
    effective = shares["shard_param_frac"] == 1 and shares["offload_optim_frac"] == 1
    reading.keys |= {"offload.optimizer": "offload_optim_frac", "offload.parameters": "offload_param_frac"}
    reading.fields |= {
        "zero_stage": 3,
        "offload.optimizer": optimizer,
        "offload.parameters": _fraction(shares["offload_param_frac"]) if effective else 0.0,
        "offload.tier": "cpu" if optimizer not in (0.0, UNDECIDED) else "none",
    }
    for reason, there in (
        (f"extra_dp_size {extra} shards over a part of the ranks", extra != 1),
        ("placement_policy auto decides while it runs", policy == "auto"),
        ("shard_param_frac below 1 keeps a part of the weights whole", shares["shard_param_frac"] != 1),
    ):
        if there:
            reading.no_formula(reason)
    wrong = next((name for name, value in shares.items() if value is not UNDECIDED and not 0 <= value <= 1), None)
    if wrong is not None:
        reading.tell(fraction=shares[wrong], fraction_key=wrong)
        reading.keys["fraction"] = wrong
    _needing_tensor_parallelism(keys, reading)
    keys.read("norm_type", "max_norm")
    refused = {"no_sync": reading.facts["calls_no_sync"], "enable_lora": reading.facts["calls_lora"]}
    method = next((method for method, called in refused.items() if called), None)
    reading.tell(calls_refused=method)
    reading.keys["calls_refused"] = method or ""


def _fraction(value: Any) -> Any:
    return value if value is UNDECIDED else min(1.0, max(0.0, value))


def _needing_tensor_parallelism(keys: Keys, reading: Reading) -> None:
    for name in (
        "enable_sequence_parallelism",
        "enable_flash_attention",
        "enable_jit_fused",
        "enable_fused_normalization",
        "enable_all_optimization",
    ):
        if keys.has(name) and keys.settings[name].content is True:
            reading.tell(needs_tp=name)
            reading.keys["needs_tp"] = name
            return


def _low_level_zero(keys: Keys, reading: Reading) -> None:
    (stage,) = keys.read("stage")
    precision = _precision(keys, reading, ("fp16", "bf16", "fp32"))
    reading.choices["stage"] = (1, 2)
    (extra,) = keys.read("extra_dp_size")
    reading.fields["zero_stage"] = stage if stage in (1, 2) else UNDECIDED
    if keys.flag("cpu_offload", name="offload.optimizer") is True:
        reading.offload("cpu", "none")
    if extra != 1:
        reading.no_formula(f"extra_dp_size {extra} shards over a part of the ranks")
    if precision == "fp32":
        reading.no_formula("LowLevelZeroPlugin in fp32 keeps no master weights, which gptplan does not count")
    keys.read("fp8_communication", "norm_type")


def _ddp(keys: Keys, reading: Reading) -> None:
    reading.fields["precision"] = "fp32"
    calls = [call.arguments for call in keys.source.others]
    given = next((arguments["mixed_precision"] for arguments in calls if "mixed_precision" in arguments), None)
    if given is None or given.content is None:
        reading.assumptions.append("TorchDDPPlugin trains in fp32 unless Booster is given mixed_precision")
        return
    reading.settings = {**reading.settings, "mixed_precision": given}
    reading.choices["mixed_precision"] = MIXED_PRECISIONS
    reading.keys["mixed_precision"] = "mixed_precision"
    reading.no_formula("PyTorch's mixed precision keeps weights in fp32, which gptplan does not count")
    if isinstance(given.content, str) and not isinstance(given.content, Symbol):
        reading.tell(mixed_precision=given.content)


_READERS: dict[str, Callable[[Keys, Reading], None]] = {
    HYBRID: _hybrid,
    GEMINI: _gemini,
    LOW_LEVEL_ZERO: _low_level_zero,
    DDP: _ddp,
}


def _batch(context: Keys, reading: Reading) -> None:
    """Micro batch and their number from the batch that one data-parallel rank loads."""
    fields, facts, asked = reading.fields, reading.facts, reading.asked
    batch = context.count(*BATCH, name="batch_size")
    reading.tell(batch_size=batch)
    stages, ranks = fields["pipeline_parallel"], reading.ranks()
    if batch is None and asked.global_batch and ranks is not None:
        batch = asked.global_batch // ranks or 1
    count, size = facts.get("num_microbatches"), facts.get("microbatch_size")
    if stages == 1:
        count, size = 1, None
    if UNDECIDED in (batch, stages):
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    if batch is None:
        batch = (size or 1) * (count or stages)
        reading.assumptions.append(f"the file does not say what a rank loads: a batch of {batch} is taken")
    reading.keys.setdefault("micro_batch", reading.keys.get("batch_size", ""))
    if count is None:
        count = max(1, batch // (size or max(1, batch // stages)))
    fields |= {"num_microbatches": count, "micro_batch": size or max(1, batch // count)}
