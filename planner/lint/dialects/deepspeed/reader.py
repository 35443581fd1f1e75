"""DeepSpeed's JSON configuration."""

from difflib import get_close_matches
from typing import Any

from planner.diagnostics import Diagnostic
from planner.lint.dialects.colossalai_2022.reader import add_nvme_facts
from planner.lint.dialects.deepspeed.keys import SECTIONS
from planner.lint.dialects.deepspeed.rules import DEEPSPEED
from planner.lint.draft import OWN_RULES, UNDECIDED, Asked, Draft, Keys
from planner.lint.model_names import model_named
from planner.lint.source import Source
from planner.specs import StackSpec
from planner.specs.files import builtin_names

MARKS = ("zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
"""Keys by which such a file is recognised."""
_ZERO = "zero_optimization"
_RESTATED = frozenset(("DEV001", "BAT001", "PP002", "PP003", "PP004", "PP005", "PP006", "PP010", "PP011"))
"""Layout rules that DeepSpeed's own rules say, or that its pipeline does not have."""
_WORDS = {
    "tensor_parallel": "tensor_parallel.autotp_size",
    "zero_stage": f"{_ZERO}.stage",
    "micro_batch": "train_micro_batch_size_per_gpu",
    "num_microbatches": "gradient_accumulation_steps",
    "offload.optimizer": f"{_ZERO}.offload_optimizer.device",
    "offload.parameters": f"{_ZERO}.offload_param.device",
    "precision": "bf16.enabled",
}


def read_deepspeed(source: Source, asked: Asked) -> Draft:
    """The layout of the file, and the facts of DeepSpeed's own checks. Megatron's degrees are not in such a file."""
    stack = "megatron-deepspeed" if "megatron-deepspeed" in builtin_names(StackSpec) else "megatron"
    draft = Draft(
        dialect=DEEPSPEED,
        framework="DeepSpeed configuration",
        stack=stack,
        words=_WORDS,
        own_rules=(*OWN_RULES, "TP005", "ZER", "OFF002", "OFF003"),
        restated=_RESTATED,
    )
    draft.settings = source.settings
    keys = Keys(source, draft.settings, draft)
    degree = _degree(keys)
    stages = _stages(keys, draft)
    named = keys.plain("model", name="model")
    draft.model = asked.model or (model_named(named) if isinstance(named, str) else None)
    draft.fields |= {
        "tensor_parallel": degree,
        "tensor_mode": UNDECIDED if degree is UNDECIDED else "1d" if degree > 1 else "none",
        "tensor_depth": 1,
        "pipeline_parallel": stages,
        "num_model_chunks": 1,
        "schedule": UNDECIDED if stages is UNDECIDED else "none" if stages == 1 else "1f1b",
        "sequence_parallel": False,
        "recompute": False,
        "seq_len": keys.count("seq_len", default=asked.seq_len),
    }
    _unknown_keys(keys, draft)
    _zero(keys, draft)
    _precision(keys, draft)
    _engine(keys, draft)
    _batch(keys, draft, asked)
    if draft.fields["offload.tier"] == "nvme":
        _nvme(keys, draft, asked)
    return draft


def _unknown_keys(keys: Keys, draft: Draft) -> None:
    """Keys that DeepSpeed refuses, or drops without a word though they are nearly called like one that it reads."""
    for key, value in keys.settings.items():
        table, _, name = key.rpartition(".")
        known = SECTIONS.get(table)
        likely = get_close_matches(name, known or (), n=1, cutoff=0.6 if table else 0.85)
        near = f"did you mean `{likely[0]}`?" if likely else ""
        if known is None or name in known or (not table and not near):
            continue
        draft.diagnostics.append(
            Diagnostic(
                rule="CFG004",
                severity="error" if table else "warning",
                hint=near or f"remove {key}",
                message=f"{table} has no key {name}" if table else f"DeepSpeed reads no key {name}",
                location=f"{keys.source.shown}:{value.line}: {key}",
                values={"key": key, "near": "".join(likely)},
            )
        )


def _degree(keys: Keys) -> Any:
    """Degree of automatic tensor parallelism; 0 switches it off."""
    named = ("tensor_parallel.autotp_size", "tensor_parallel.tp.tp_size", "tensor_parallel.tp_size")
    degree = keys.count(*named, default=1, name="tensor_parallel", least=0)
    return 1 if degree == 0 else degree


def _stages(keys: Keys, draft: Draft) -> Any:
    """Stages of the pipeline; ``auto`` leaves them to the script, where one is taken."""
    if not keys.has("pipeline.stages") or keys.raw("pipeline.stages") == "auto":
        return 1
    stages = keys.count("pipeline.stages", default=1, name="pipeline_parallel")
    if stages is not UNDECIDED:
        draft.facts["pipeline_stages"] = stages
    if stages != 1:
        draft.unmodelled.append("gptplan has no formulas for DeepSpeed's own pipeline")
    return stages


def _engine(keys: Keys, draft: Draft) -> None:
    """Facts of what the engine refuses: amp, optimizers, partial offload."""
    kind = keys.raw("optimizer.type")
    table = f"{_ZERO}.offload_optimizer"
    found = {
        "amp": keys.flag("amp.enabled", name="amp"),
        "offload_ratio": keys.number(f"{table}.ratio", default=1.0),
        "untested_allowed": keys.flag("zero_allow_untested_optimizer"),
        "half_master": keys.flag("fp16.fp16_master_weights_and_grads", name="half_master"),
        "optimizer_type": kind if isinstance(kind, str) else None,
    }
    draft.facts |= {name: value for name, value in found.items() if value is not UNDECIDED and value is not None}
    draft.keys |= {"offload_ratio": f"{table}.ratio", "optimizer_type": "optimizer.type"}


def _stage(keys: Keys) -> Any:
    old = keys.settings.get(_ZERO)
    if old is not None and isinstance(old.content, bool):
        return int(old.content)
    return keys.count(f"{_ZERO}.stage", default=0, name="zero_stage", least=0)


def _zero(keys: Keys, draft: Draft) -> None:
    stage = _stage(keys)
    draft.choices[f"{_ZERO}.stage"] = (0, 1, 2, 3)
    places = ("none", "cpu", "nvme")
    optimizer = keys.choice(
        f"{_ZERO}.offload_optimizer.device", choices=places, default="none", name="offload.optimizer"
    )
    if keys.flag(f"{_ZERO}.cpu_offload") is True and optimizer == "none":
        optimizer = "cpu"
    parameters = keys.choice(f"{_ZERO}.offload_param.device", choices=places, default="none", name="offload.parameters")
    if keys.flag(f"{_ZERO}.cpu_offload_param", f"{_ZERO}.cpu_offload_params") is True and parameters == "none":
        parameters = "cpu"
    draft.facts |= {
        name: value
        for name, value in (("zero_stage", stage), ("optimizer_device", optimizer), ("parameter_device", parameters))
        if value is not UNDECIDED
    }
    tiers = {optimizer, parameters}
    draft.fields |= {
        "zero_stage": stage if stage in (0, 1, 2, 3) else UNDECIDED,
        "offload.optimizer": float(optimizer in ("cpu", "nvme")),
        "offload.parameters": float(parameters in ("cpu", "nvme")),
        "offload.tier": "nvme" if "nvme" in tiers else "cpu" if "cpu" in tiers else "none",
    }


def _precision(keys: Keys, draft: Draft) -> None:
    half, brain = keys.flag("fp16.enabled", name="fp16"), keys.flag("bf16.enabled", "bfloat16.enabled", name="bf16")
    draft.fields["precision"] = (
        UNDECIDED if UNDECIDED in (half, brain) else "bf16" if brain else "fp16" if half else "fp32"
    )
    if UNDECIDED not in (half, brain):
        draft.facts |= {"fp16": half, "bf16": brain}


def _batch(keys: Keys, draft: Draft, asked: Asked) -> None:
    fields, facts = draft.fields, draft.facts
    total = keys.count("train_batch_size", default=asked.global_batch, name="train_batch")
    micro = keys.count("train_micro_batch_size_per_gpu", name="micro_batch")
    steps = keys.count("gradient_accumulation_steps", name="num_microbatches")
    draft.keys |= {"has_batch": "train_batch_size"}
    given = keys.has("train_batch_size", "train_micro_batch_size_per_gpu")
    facts |= {"has_batch": given or total is not None, "num_devices": asked.gpus}
    facts |= {"tensor_parallel": fields["tensor_parallel"]} if fields["tensor_parallel"] is not UNDECIDED else {}
    if UNDECIDED in (total, micro, steps, fields["tensor_parallel"], fields["pipeline_parallel"]):
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    ranks = max(1, asked.gpus // (fields["tensor_parallel"] * fields["pipeline_parallel"]))
    batch: dict[str, Any] = {"train_batch": total, "train_micro_batch": micro, "gradient_accumulation_steps": steps}
    facts |= {name: value for name, value in batch.items() if value is not None} | {"data_parallel": ranks}
    if total is not None and (micro is None or steps is None):
        facts |= {"batch_unit": ranks * (micro or 1) * (steps or 1), "unit_words": _unit(micro, steps)}
    local = None if total is None else max(1, total // ranks)
    if micro is None:
        micro = max(1, (local or 1) // (steps or 1))
    if steps is None:
        steps = max(1, local // micro) if local else 1
    fields |= {"micro_batch": micro, "num_microbatches": steps}


def _unit(micro: int | None, steps: int | None) -> str:
    parts = [word for word, value in (("micro batch", micro), ("accumulation", steps)) if value is not None]
    return " x ".join([*parts, "DP"])


def _nvme(keys: Keys, draft: Draft, asked: Asked) -> None:
    tables = (f"{_ZERO}.offload_optimizer", f"{_ZERO}.offload_param")
    table = next(table for table in tables if keys.raw(f"{table}.device") == "nvme")
    draft.keys |= {"nvme_path": f"{table}.nvme_path", "nvme_device": f"{table}.device"}
    path = keys.raw(f"{table}.nvme_path")
    add_nvme_facts(draft, asked, path if isinstance(path, str) else None)
