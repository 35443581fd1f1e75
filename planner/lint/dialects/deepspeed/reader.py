"""DeepSpeed's JSON configuration."""

from typing import Any

from planner.lint.dialects.deepspeed.keys import DIALECT, LOOSE, SECTIONS, ZERO
from planner.lint.dialects.nvme import read_nvme
from planner.lint.draft import UNDECIDED, Asked, Draft
from planner.lint.model_names import model_named
from planner.lint.reading import Keys, Reading, Unknowns, refuse_unknown
from planner.lint.source import Source

_OPTIMIZER, _PARAMETERS = f"{ZERO}.offload_optimizer", f"{ZERO}.offload_param"


def read_deepspeed(source: Source, asked: Asked) -> Draft:
    """The layout of the file, and the facts of DeepSpeed's own checks. Megatron's degrees are not in such a file."""
    reading = Reading(DIALECT, source, asked)
    keys = Keys(reading)
    degree = _degree(keys)
    stages = _stages(keys, reading)
    named = keys.plain("model", name="model")
    reading.model = asked.model or (model_named(named) if isinstance(named, str) else None)
    reading.mesh(degree, stages)
    reading.fields |= {
        "sequence_parallel": False,
        "recompute": False,
        "seq_len": keys.count("seq_len", default=asked.seq_len),
    }
    # DeepSpeed passes over them without a word, and trains another layout than its author wrote.
    for table in LOOSE:
        unread = f"DeepSpeed reads no key {table}{'.' * bool(table)}{{name}}"
        refuse_unknown(keys, table, SECTIONS[table], Unknowns(unread, 0.85, far=False))
    for table, known in SECTIONS.items():
        if table not in LOOSE:
            refuse_unknown(keys, table, known, Unknowns("{table} has no key {name}", 0.6))
    _zero(keys, reading)
    _precision(keys, reading)
    _engine(keys, reading)
    _batch(keys, reading)
    if reading.fields["offload.tier"] == "nvme":
        read_nvme(keys, next(table for table in (_OPTIMIZER, _PARAMETERS) if keys.raw(f"{table}.device") == "nvme"))
    return reading.draft()


def _degree(keys: Keys) -> Any:
    """Degree of automatic tensor parallelism; 0 switches it off."""
    named = ("tensor_parallel.autotp_size", "tensor_parallel.tp.tp_size", "tensor_parallel.tp_size")
    degree = keys.count(*named, default=1, name="tensor_parallel", least=0)
    return 1 if degree == 0 else degree


def _stages(keys: Keys, reading: Reading) -> Any:
    """Stages of the pipeline; ``auto`` leaves them to the script, where one is taken."""
    if not keys.has("pipeline.stages") or keys.raw("pipeline.stages") == "auto":
        return 1
    stages = keys.count("pipeline.stages", default=1, name="pipeline_parallel")
    reading.tell(pipeline_stages=stages)
    if stages != 1:
        reading.no_formula("gptplan has no formulas for DeepSpeed's own pipeline")
    return stages


def _engine(keys: Keys, reading: Reading) -> None:
    """Facts of what the engine refuses: amp, optimizers, partial offload."""
    kind = keys.raw("optimizer.type")
    keys.read("amp", "offload_ratio", "half_master")
    untested = keys.flag("zero_allow_untested_optimizer")
    reading.tell(untested_allowed=untested, optimizer_type=kind if isinstance(kind, str) else None)
    reading.keys["optimizer_type"] = "optimizer.type"


def _zero(keys: Keys, reading: Reading) -> None:
    table = keys.settings.get(ZERO)
    if table is not None and isinstance(table.content, bool):
        # The first versions had only a switch.
        stage: Any = int(table.content)
    else:
        stage = keys.count(f"{ZERO}.stage", default=0, name="zero_stage", least=0)
    reading.choices[f"{ZERO}.stage"] = (0, 1, 2, 3)
    places = ("none", "cpu", "nvme")
    optimizer = keys.choice(f"{_OPTIMIZER}.device", choices=places, default="none", name="offload.optimizer")
    if keys.flag(f"{ZERO}.cpu_offload") is True and optimizer == "none":
        optimizer = "cpu"
    parameters = keys.choice(f"{_PARAMETERS}.device", choices=places, default="none", name="offload.parameters")
    if keys.flag(f"{ZERO}.cpu_offload_param", f"{ZERO}.cpu_offload_params") is True and parameters == "none":
        parameters = "cpu"
    reading.tell(zero_stage=stage, optimizer_device=optimizer, parameter_device=parameters)
    reading.fields["zero_stage"] = stage if stage in (0, 1, 2, 3) else UNDECIDED
    reading.offload(optimizer, parameters)


def _precision(keys: Keys, reading: Reading) -> None:
    half, brain = keys.flag("fp16.enabled", name="fp16"), keys.flag("bf16.enabled", "bfloat16.enabled", name="bf16")
    if UNDECIDED in (half, brain):
        reading.fields["precision"] = UNDECIDED
        return
    reading.fields["precision"] = "bf16" if brain else "fp16" if half else "fp32"
    reading.tell(fp16=half, bf16=brain)


def _batch(keys: Keys, reading: Reading) -> None:
    fields, asked = reading.fields, reading.asked
    total = keys.count("train_batch_size", default=asked.global_batch, name="train_batch")
    micro = keys.count("train_micro_batch_size_per_gpu", name="micro_batch")
    steps = keys.count("gradient_accumulation_steps", name="num_microbatches")
    reading.keys["has_batch"] = "train_batch_size"
    given = keys.has("train_batch_size", "train_micro_batch_size_per_gpu")
    reading.tell(
        has_batch=given or total is not None, num_devices=asked.gpus, tensor_parallel=fields["tensor_parallel"]
    )
    ranks = reading.ranks()
    if UNDECIDED in (total, micro, steps) or ranks is None:
        fields |= {"micro_batch": UNDECIDED, "num_microbatches": UNDECIDED}
        return
    reading.tell(train_batch=total, train_micro_batch=micro, gradient_accumulation_steps=steps, data_parallel=ranks)
    if total is not None and (micro is None or steps is None):
        words = [word for word, value in (("micro batch", micro), ("accumulation", steps)) if value is not None]
        reading.tell(batch_unit=ranks * (micro or 1) * (steps or 1), unit_words=" x ".join([*words, "DP"]))
    local = None if total is None else max(1, total // ranks)
    if micro is None:
        micro = max(1, (local or 1) // (steps or 1))
    if steps is None:
        steps = max(1, local // micro) if local else 1
    fields |= {"micro_batch": micro, "num_microbatches": steps}
