"""Today's Colossal-AI: the keyword arguments of its plugins, in a training script or a data file."""

from collections.abc import Callable, Mapping
from typing import Any

from planner.diagnostics import Diagnostic
from planner.lint.dialects.plugins.arguments import ARGUMENTS, REQUIRED
from planner.lint.dialects.plugins.gpt2_config import described_model
from planner.lint.dialects.plugins.names import (
    DDP,
    GEMINI,
    GEMINI_OPTIMIZERS,
    HYBRID,
    LOW_LEVEL_ZERO,
    MIXED_PRECISIONS,
    PIPELINE_STYLES,
    SEQUENCE_MODES,
)
from planner.lint.draft import UNDECIDED, Asked, Draft, Keys
from planner.lint.model_names import model_named
from planner.lint.source import Source, Symbol, Unknown, Value, flatten
from planner.specs.files import did_you_mean

BATCH = ("batch_size", "BATCH_SIZE", "local_batch_size", "per_device_batch_size", "train_batch_size_per_rank")
SEQUENCE = ("seq_len", "SEQ_LEN", "seq_length", "max_length", "sequence_length")
MODEL = ("model.type", "model", "model_name", "MODEL", "config")
CONTEXT = {*BATCH, *SEQUENCE, *MODEL, "optimizer", "gradient_checkpointing", "plugin", "gpus"}
"""Keys of a data file that stand beside the plugin's own arguments."""
OPTIMIZERS = (
    *GEMINI_OPTIMIZERS,
    "AdamW",
    "Adam",
    "SGD",
    "FusedLAMB",
    "FusedSGD",
    "Lamb",
    "Adafactor",
    "CAME",
    "DistributedLamb",
    "DistributedAdaFactor",
    "DistributedCAME",
    "DistGaloreAwamW",
)
_WORDS = {
    "tensor_parallel": "tp_size",
    "pipeline_parallel": "pp_size",
    "num_microbatches": "num_microbatches",
    "micro_batch": "microbatch_size",
    "schedule": "pp_style",
    "layers_per_stage": "num_layers_per_stage",
    "sequence_parallel": "enable_sequence_parallelism",
    "offload.optimizer": "cpu_offload",
}


def read_plugin(
    source: Source, name: str, arguments: Mapping[str, Value], asked: Asked, *, whole_call: bool = False
) -> Draft:
    """The layout that a plugin with these arguments gives; ``whole_call`` where they are all that a script gives it."""
    draft = Draft(
        dialect=name,
        framework=f"Colossal-AI {name}",
        stack="colossalai",
        words=_WORDS,
        restated=frozenset({"DEV001", "ZER001", "ZER002", "SP001", "PP002", "PP003", "PP010"}),
    )
    arguments = flatten(arguments)
    flat = source.language != "python" and all(source.settings.get(key) is value for key, value in arguments.items())
    if flat:
        arguments = {key: value for key, value in arguments.items() if key.partition(".")[0] not in CONTEXT}
    draft.settings = {**source.settings, **arguments}
    missing = [key for key in REQUIRED.get(name, ()) if key not in arguments]
    if whole_call and missing:
        draft.facts["missing_argument"] = missing[0]
    keys = Keys(source, arguments, draft)
    context = Keys(source, {key: value for key, value in source.settings.items() if key not in arguments}, draft)
    _refuse_unknown(keys, draft, name)
    _context(context, source, draft, asked)
    _READERS[name](keys, draft, asked)
    _batch(context, draft, asked)
    return draft


def _refuse_unknown(keys: Keys, draft: Draft, name: str) -> None:
    known = ARGUMENTS[name]
    for key, value in keys.settings.items():
        if key.partition(".")[0] in known or key in (*CONTEXT, "type"):
            continue
        if keys.source.language != "python" and "." in key:
            continue
        near = did_you_mean(key, set(known))
        if keys.source.language != "python" and not near:
            continue
        draft.diagnostics.append(
            Diagnostic(
                rule="CFG004",
                message=f"{name} has no argument {key}",
                hint=near or f"remove {key}",
                location=f"{keys.source.shown}:{value.line}: {key}",
                values={"key": key, "near": "".join(near.split("`")[1:2])},
            )
        )


def _context(context: Keys, source: Source, draft: Draft, asked: Asked) -> None:
    """What the script says outside of the plugin: batch, sequence, model, calls."""
    draft.fields |= {
        "tensor_mode": "none",
        "tensor_parallel": 1,
        "tensor_depth": 1,
        "pipeline_parallel": 1,
        "zero_stage": 0,
        "sequence_parallel": False,
        "schedule": "none",
        "num_model_chunks": 1,
        "precision": "fp16",
        "offload.optimizer": 0.0,
        "offload.parameters": 0.0,
        "offload.tier": "none",
        "recompute": "gradient_checkpointing_enable" in source.called,
    }
    if "recompute" not in draft.keys and not draft.fields["recompute"]:
        recompute = context.flag("gradient_checkpointing", "grad_checkpoint", "checkpoint", name="recompute")
        draft.fields["recompute"] = recompute
    draft.fields["seq_len"] = context.count(*SEQUENCE, default=asked.seq_len, name="seq_len")
    draft.model = asked.model or described_model(source, draft)
    if draft.model is None:
        named = context.plain(*MODEL, name="model")
        draft.model = model_named(named) if isinstance(named, str) else None
    if draft.model is not None:
        # All models with formulas are GPT-2's.
        draft.facts["model"] = draft.model.name
        hidden = {value.line for key, value in source.settings.items() if key in MODEL and _is_hidden(value)}
        draft.needless_lines |= hidden | {call.line for call in source.others}
    draft.facts |= {
        "num_devices": asked.gpus,
        "calls_no_sync": "no_sync" in source.called,
        "calls_lora": "enable_lora" in source.called,
        "uses_galore": "DistGaloreAwamW" in source.called,
    }
    optimizers = [name for name in OPTIMIZERS if name in source.called]
    written = context.plain("optimizer.type", "optimizer", name="optimizer")
    if isinstance(written, str):
        optimizers = [str(written).rpartition(".")[2]]
    if len(optimizers) == 1:
        draft.facts["optimizer"] = optimizers[0]


def _is_hidden(value: Value) -> bool:
    return isinstance(value.content, Unknown)


def _keep(draft: Draft, facts: Mapping[str, Any]) -> None:
    draft.facts |= {name: value for name, value in facts.items() if value is not UNDECIDED and value is not None}
    draft.keys |= {name: name for name in facts if name not in draft.keys}


def _set_tensor(keys: Keys, draft: Draft) -> Any:
    degree = keys.count("tp_size", default=1, name="tensor_parallel")
    mode = UNDECIDED if degree is UNDECIDED else "1d" if degree > 1 else "none"
    draft.fields |= {"tensor_parallel": degree, "tensor_mode": mode}
    return degree


def _hybrid(keys: Keys, draft: Draft, asked: Asked) -> None:
    fields = draft.fields
    degree = _set_tensor(keys, draft)
    stages = keys.count("pp_size", default=1, name="pipeline_parallel")
    stage = keys.count("zero_stage", default=0, name="zero_stage", least=0)
    precision = keys.word("precision", default="fp16", name="precision")
    style = keys.word("pp_style", default="1f1b", name="schedule")
    chunks = keys.count("num_model_chunks", default=1, name="num_model_chunks")
    sequence = keys.flag("enable_sequence_parallelism", name="sequence_parallel")
    sequence_mode = keys.word("sequence_parallelism_mode", default="all_to_all" if sequence is True else None)
    groups = keys.count("sp_size", default=1, name="context_parallel")
    layers = keys.raw("num_layers_per_stage", name="layers_per_stage")
    draft.choices |= {
        "precision": ("fp16", "bf16", "fp32"),
        "pp_style": PIPELINE_STYLES,
        "zero_stage": (0, 1, 2),
        "sequence_parallelism_mode": SEQUENCE_MODES,
    }
    in_tensor_group = sequence_mode in ("split_gather", "ring")
    layers = layers if layers is UNDECIDED or _is_counts(layers) else None
    fields |= {
        "pipeline_parallel": stages,
        "zero_stage": UNDECIDED if stage is UNDECIDED or stage > 3 else stage,  # noqa: PLR2004 - a stage of ZeRO
        "precision": precision if precision in ("fp16", "bf16", "fp32") else UNDECIDED,
        "sequence_parallel": sequence if sequence is UNDECIDED else sequence and in_tensor_group,
        "layers_per_stage": None if layers is UNDECIDED else layers,
        "context_parallel": 1 if in_tensor_group or sequence is not True else groups,
    }
    fields |= _schedule(stages, style, chunks)
    _hybrid_unmodelled(draft, style, sequence, sequence_mode, stages)
    offload = keys.flag("cpu_offload", name="offload.optimizer")
    if offload is True:
        fields |= {"offload.optimizer": 1.0, "offload.tier": "cpu"}
    _keep(
        draft,
        {
            "pp_style": style,
            "has_scheduler_nodes": keys.raw("scheduler_nodes") is not None,
            "zero_stage": stage,
            "enable_sequence_parallelism": sequence,
            "sequence_parallelism_mode": sequence_mode,
            "tp_size": degree,
            "sp_size": groups,
            "pp_size": stages,
            "num_model_chunks": chunks,
            "precision": precision,
            "has_microbatches": keys.given("num_microbatches", "microbatch_size"),
            "num_layers_per_stage": layers,
            "num_microbatches": keys.count("num_microbatches", name="num_microbatches"),
            "microbatch_size": keys.count("microbatch_size", name="micro_batch"),
            "num_layers": draft.model.num_layers if draft.model else None,
            "seq_len": fields["seq_len"],
            "inner_ring_size": keys.count("inner_ring_size"),
        },
    )


def _is_counts(layers: Any) -> bool:
    return isinstance(layers, tuple) and bool(layers) and all(type(n) is int and 0 <= n < 10**6 for n in layers)


def _schedule(stages: Any, style: Any, chunks: Any) -> dict[str, Any]:
    if UNDECIDED in (stages, style, chunks):
        return {"schedule": UNDECIDED, "num_model_chunks": UNDECIDED}
    if stages == 1 or style != "interleaved":
        return {"schedule": "none" if stages == 1 else "1f1b", "num_model_chunks": 1}
    return {"schedule": "interleaved", "num_model_chunks": chunks}


def _hybrid_unmodelled(draft: Draft, style: Any, sequence: Any, mode: Any, stages: Any) -> None:
    if style == "zbv" and stages != 1:
        draft.unmodelled.append("gptplan has no zero-bubble schedule")
    if sequence is True and mode not in ("split_gather", "ring"):
        draft.unmodelled.append(f"gptplan has no sequence parallelism of mode {mode}")


def _gemini(keys: Keys, draft: Draft, asked: Asked) -> None:
    degree = _set_tensor(keys, draft)
    extra = keys.count("extra_dp_size", default=1)
    precision = keys.word("precision", default="fp16", name="precision")
    policy = keys.word("placement_policy", default="static")
    draft.choices |= {"precision": ("fp16", "bf16"), "placement_policy": ("static", "auto")}
    fractions = {
        name: keys.number(name, default=default)
        for name, default in (
            ("shard_param_frac", 1.0),
            ("offload_optim_frac", 0.0),
            ("offload_param_frac", 0.0),
            ("gpu_margin_mem_ratio", 0.0),
        )
    }
    optimizer = _fraction(fractions["offload_optim_frac"])
    effective = fractions["shard_param_frac"] == 1 and fractions["offload_optim_frac"] == 1
    parameters = _fraction(fractions["offload_param_frac"]) if effective else 0.0
    draft.keys |= {"offload.optimizer": "offload_optim_frac", "offload.parameters": "offload_param_frac"}
    draft.fields |= {
        "zero_stage": 3,
        "precision": precision if precision in ("fp16", "bf16") else UNDECIDED,
        "offload.optimizer": optimizer,
        "offload.parameters": parameters,
        "offload.tier": "cpu" if optimizer not in (0.0, UNDECIDED) else "none",
    }
    for reason, there in (
        (f"extra_dp_size {extra} shards over a part of the ranks", extra != 1),
        ("placement_policy auto decides while it runs", policy == "auto"),
        ("shard_param_frac below 1 keeps a part of the weights whole", fractions["shard_param_frac"] != 1),
    ):
        if there:
            draft.unmodelled.append(reason)
    wrong = next((name for name, value in fractions.items() if value is not UNDECIDED and not 0 <= value <= 1), None)
    if wrong is not None:
        draft.facts |= {"fraction": fractions[wrong], "fraction_key": wrong}
        draft.keys["fraction"] = wrong
    _gemini_facts(keys, draft, {**fractions, "precision": precision, "placement_policy": policy})
    _keep(draft, {"tp_size": degree, "extra_dp_size": extra})


def _fraction(value: Any) -> Any:
    return value if value is UNDECIDED else min(1.0, max(0.0, value))


def _gemini_facts(keys: Keys, draft: Draft, facts: dict[str, Any]) -> None:
    needing = (
        "enable_sequence_parallelism",
        "enable_flash_attention",
        "enable_jit_fused",
        "enable_fused_normalization",
        "enable_all_optimization",
    )
    without = next((name for name in needing if keys.has(name) and keys.settings[name].content is True), None)
    if without is not None:
        facts["needs_tp"] = without
        draft.keys["needs_tp"] = without
    refused = [
        name for name, fact in (("no_sync", "calls_no_sync"), ("enable_lora", "calls_lora")) if draft.facts[fact]
    ]
    _keep(
        draft,
        facts
        | {
            "norm_type": keys.number("norm_type", default=2.0),
            "max_norm": keys.number("max_norm"),
            "calls_refused": refused[0] if refused else None,
        },
    )


def _low_level_zero(keys: Keys, draft: Draft, asked: Asked) -> None:
    stage = keys.count("stage", default=1, name="zero_stage", least=0)
    precision = keys.word("precision", default="fp16", name="precision")
    draft.choices |= {"stage": (1, 2), "precision": ("fp16", "bf16", "fp32")}
    extra = keys.count("extra_dp_size", default=1)
    draft.fields |= {
        "zero_stage": stage if stage in (1, 2) else UNDECIDED,
        "precision": precision if precision in ("fp16", "bf16", "fp32") else UNDECIDED,
    }
    if keys.flag("cpu_offload", name="offload.optimizer") is True:
        draft.fields |= {"offload.optimizer": 1.0, "offload.tier": "cpu"}
    if extra != 1:
        draft.unmodelled.append(f"extra_dp_size {extra} shards over a part of the ranks")
    if precision == "fp32":
        draft.unmodelled.append("LowLevelZeroPlugin in fp32 keeps no master weights, which gptplan does not count")
    _keep(
        draft,
        {
            "stage": stage,
            "precision": precision,
            "extra_dp_size": extra,
            "fp8_communication": keys.flag("fp8_communication"),
            "norm_type": keys.number("norm_type", default=2.0),
        },
    )


def _ddp(keys: Keys, draft: Draft, asked: Asked) -> None:
    draft.fields["precision"] = "fp32"
    boosters = [call.arguments["mixed_precision"] for call in keys.source.others if "mixed_precision" in call.arguments]
    mixed = boosters[0].content if boosters else None
    if mixed is None:
        draft.assumptions.append("TorchDDPPlugin trains in fp32 unless Booster is given mixed_precision")
        return
    draft.settings = {**draft.settings, "mixed_precision": boosters[0]}
    draft.choices["mixed_precision"] = MIXED_PRECISIONS
    draft.keys["mixed_precision"] = "mixed_precision"
    draft.unmodelled.append("PyTorch's mixed precision keeps weights in fp32, which gptplan does not count")
    if isinstance(mixed, str) and not isinstance(mixed, Symbol):
        draft.facts["mixed_precision"] = mixed


_READERS: dict[str, Callable[[Keys, Draft, Asked], None]] = {
    HYBRID: _hybrid,
    GEMINI: _gemini,
    LOW_LEVEL_ZERO: _low_level_zero,
    DDP: _ddp,
}


def _batch(context: Keys, draft: Draft, asked: Asked) -> None:
    """Micro batch and their number from the batch that one data-parallel rank loads."""
    fields, facts = draft.fields, draft.facts
    batch = context.count(*BATCH, name="batch_size")
    if batch is not UNDECIDED and batch is not None:
        facts["batch_size"] = batch
    group = [fields["tensor_parallel"], fields["pipeline_parallel"], fields.get("context_parallel", 1)]
    if batch is None and asked.global_batch and UNDECIDED not in group:
        batch = asked.global_batch // max(1, asked.gpus // max(1, group[0] * group[1] * group[2])) or 1
    count, size = facts.get("num_microbatches"), facts.get("microbatch_size")
    if fields["pipeline_parallel"] == 1:
        count, size = 1, None
    if UNDECIDED in (batch, fields["pipeline_parallel"]):
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    if batch is None:
        batch = (size or 1) * (count or fields["pipeline_parallel"])
        draft.assumptions.append(f"the file does not say what a rank loads: a batch of {batch} is taken")
    draft.keys.setdefault("micro_batch", draft.keys.get("batch_size", ""))
    if count is None:
        count = max(1, batch // (size or max(1, batch // fields["pipeline_parallel"])))
    fields |= {"num_microbatches": count, "micro_batch": size or max(1, batch // count)}
