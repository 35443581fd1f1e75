"""Rules of DeepSpeed's JSON configuration that a layout does not show."""

from typing import Any

from planner.rules.config_rule import ConfigRule, Facts

DEEPSPEED = "deepspeed"
_CONFIG = "DeepSpeed: deepspeed/runtime/config.py"
_ZERO = "DeepSpeed: deepspeed/runtime/zero/config.py"


def _rule(**fields: Any) -> ConfigRule:
    return ConfigRule(dialects=(DEEPSPEED,), **fields)


def _product(f: Facts) -> int:
    return int(f["train_micro_batch"] * f["gradient_accumulation_steps"] * f["data_parallel"])


RULES = (
    _rule(
        id="DSP001", title="train_batch_size is not micro batch x accumulation x DP", field="train_batch_size",
        fact="train_batch", needs=("train_batch", "train_micro_batch", "gradient_accumulation_steps", "data_parallel"),
        message="train_batch_size is {train_batch}, and micro batch x accumulation x DP is {product}",
        detail="{train_micro_batch} * {gradient_accumulation_steps} * {data_parallel} = {product}",
        hint="use train_batch_size {product}", values=lambda f: {"product": _product(f)}, repaired=_product,
        why="DeepSpeed asserts it before it builds anything.", source=_CONFIG,
        holds=lambda f: f["train_batch"] == _product(f),
    ),
    _rule(
        id="DSP002", title="fp16 and bf16 together", field="fp16.enabled", fact="fp16", needs=("fp16", "bf16"),
        message="fp16 and bf16 are both enabled, and only one of them may be",
        detail="fp16.enabled and bf16.enabled are true",
        hint="set fp16.enabled to false", repaired=lambda f: False, why="Weights have one precision.", source=_CONFIG,
        holds=lambda f: not (f["fp16"] and f["bf16"]),
    ),
    _rule(
        id="DSP003", title="a ZeRO stage that does not exist", field="zero_optimization.stage", fact="zero_stage",
        needs=("zero_stage",), message="zero_optimization.stage {zero_stage} is none of 0, 1, 2, 3",
        detail="zero_optimization.stage = {zero_stage}", hint="use stage 0, 1, 2 or 3",
        why="There are no other stages.", source=_ZERO, holds=lambda f: f["zero_stage"] in (0, 1, 2, 3),
    ),
    _rule(
        id="DSP004", title="optimizer offload without ZeRO", field="zero_optimization.offload_optimizer",
        fact="zero_stage", needs=("zero_stage", "optimizer_device"),
        message="offload_optimizer needs ZeRO stage 1, 2 or 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 2", why="Only the sharded optimizer keeps its states on the host.", source=_ZERO,
        holds=lambda f: f["optimizer_device"] == "none" or f["zero_stage"] >= 1,
    ),
    _rule(
        id="DSP005", title="parameter offload without ZeRO 3", field="zero_optimization.offload_param",
        fact="zero_stage", needs=("zero_stage", "parameter_device"),
        message="offload_param needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_param.device = {parameter_device}",
        hint="use stage 3, or offload_param.device none", repaired=lambda f: 3,
        why="Parameters can only leave the device where they are sharded.", source=_ZERO,
        holds=lambda f: f["parameter_device"] == "none" or f["zero_stage"] == 3,  # noqa: PLR2004
    ),
    _rule(
        id="DSP006", title="NVMe offload without ZeRO 3", field="zero_optimization.stage",
        fact="zero_stage", needs=("zero_stage", "optimizer_device"),
        message="offload_optimizer to nvme needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 3, or offload_optimizer.device cpu", repaired=lambda f: 3,
        why="Stages 1 and 2 keep offloaded states in host memory.", source=_ZERO,
        holds=lambda f: f["optimizer_device"] != "nvme" or f["zero_stage"] == 3,  # noqa: PLR2004
    ),
    _rule(
        id="DSP007", remedy="add", title="no batch size", field="train_batch_size", fact="has_batch",
        needs=("has_batch",),
        message="neither train_batch_size nor train_micro_batch_size_per_gpu is given", detail="one of them is needed",
        hint="add train_micro_batch_size_per_gpu", why="DeepSpeed asserts that one of them is there.", source=_CONFIG,
        holds=lambda f: f["has_batch"],
    ),
    _rule(
        id="DSP008", title="train_batch_size does not divide", field="train_batch_size",
        fact="train_batch", needs=("train_batch", "batch_unit"),
        message="train_batch_size {train_batch} does not divide by {unit_words} = {batch_unit}",
        detail="{train_batch} % {batch_unit} = {rest}", hint="use train_batch_size {below} or {above}",
        values=lambda f: {
            "rest": f["train_batch"] % f["batch_unit"],
            "below": max(1, f["train_batch"] // f["batch_unit"]) * f["batch_unit"],
            "above": (f["train_batch"] // f["batch_unit"] + 1) * f["batch_unit"],
        },
        why="What is not given is computed by division, and DeepSpeed asserts that nothing is left.", source=_CONFIG,
        holds=lambda f: f["train_batch"] % f["batch_unit"] == 0,
    ),
    _rule(
        id="DSP009", title="tensor parallelism does not divide the GPUs", field="tensor_parallel.autotp_size",
        fact="tensor_parallel", needs=("tensor_parallel", "num_devices"),
        message="tensor_parallel.autotp_size {tensor_parallel} does not divide {num_devices} GPUs",
        detail="{num_devices} % {tensor_parallel} = {rest}", hint="use a divisor of {num_devices}",
        values=lambda f: {"rest": f["num_devices"] % f["tensor_parallel"]},
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        source="DeepSpeed: deepspeed/utils/groups.py", holds=lambda f: f["num_devices"] % f["tensor_parallel"] == 0,
    ),
)  # fmt: skip
