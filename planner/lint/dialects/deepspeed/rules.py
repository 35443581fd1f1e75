"""Rules of DeepSpeed's JSON configuration that a layout does not show."""

from typing import Any

from planner.layouts.degrees import divisors
from planner.lint.config_rule import ConfigRule, Facts
from planner.rules.rule import listed

DEEPSPEED = "deepspeed"
_READ = "DeepSpeed 0.16.5 at 38327e0 (February 2025)"
"""The version whose source every rule of DeepSpeed was read in."""
_CONFIG = f"{_READ}: deepspeed/runtime/config.py"
_ENGINE = f"{_READ}: deepspeed/runtime/engine.py"
_ZERO = f"{_READ}: deepspeed/runtime/zero/config.py"
_OFFLOAD = f"{_READ}: deepspeed/runtime/zero/offload_config.py"
ONE_BIT = ("onebitadam", "zerooneadam", "onebitlamb")
ZERO_OPTIMIZERS = ("adam", "adamw", "adagrad", "lion")
"""Optimizers of DeepSpeed's own names whose classes are in ZERO_SUPPORTED_OPTIMIZERS."""


def _rule(**fields: Any) -> ConfigRule:
    return ConfigRule(dialects=(DEEPSPEED,), **fields)


def _group(f: Facts) -> int:
    return int(f["tensor_parallel"] * f.get("pipeline_stages", 1))


def _near(number: int, unit: int) -> list[int]:
    """The multiples of ``unit`` around a number, from ``unit`` on."""
    return [multiple for multiple in (number // unit * unit, (number // unit + 1) * unit) if multiple]


def _product(f: Facts) -> int:
    return int(f["train_micro_batch"] * f["gradient_accumulation_steps"] * f["data_parallel"])


RULES = (
    _rule(
        id="DSP001",
        title="train_batch_size is not micro batch x accumulation x DP",
        field="train_batch_size",
        fact="train_batch",
        needs=("train_batch", "train_micro_batch", "gradient_accumulation_steps", "data_parallel"),
        message="train_batch_size is {train_batch}, and micro batch x accumulation x DP is {product}",
        detail="{train_micro_batch} * {gradient_accumulation_steps} * {data_parallel} = {product}",
        hint="use train_batch_size {product}",
        values=lambda f: {"product": _product(f)},
        repaired=_product,
        why="DeepSpeed asserts it before it builds anything.",
        source=f"{_CONFIG}, _batch_assertion",
        holds=lambda f: f["train_batch"] == _product(f),
    ),
    _rule(
        id="DSP002",
        title="fp16 and bf16 together",
        field="fp16.enabled",
        fact="fp16",
        needs=("fp16", "bf16"),
        message="fp16 and bf16 are both enabled, and only one of them may be",
        detail="fp16.enabled and bf16.enabled are true",
        hint="set fp16.enabled or bf16.enabled to false",
        repaired=lambda f: False,
        why="Weights have one precision.",
        source=f"{_CONFIG}, _initialize_params",
        holds=lambda f: not (f["fp16"] and f["bf16"]),
    ),
    _rule(
        id="DSP003",
        title="a ZeRO stage that does not exist",
        field="zero_optimization.stage",
        fact="zero_stage",
        needs=("zero_stage",),
        message="zero_optimization.stage {zero_stage} is none of 0, 1, 2, 3",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use stage 0, 1, 2 or 3",
        why="There are no other stages.",
        source=f"{_ZERO}, ZeroStageEnum",
        holds=lambda f: f["zero_stage"] in (0, 1, 2, 3),
    ),
    _rule(
        id="DSP004",
        title="optimizer offload without ZeRO",
        field="zero_optimization.offload_optimizer",
        fact="zero_stage",
        needs=("zero_stage", "optimizer_device"),
        message="offload_optimizer needs ZeRO stage 1, 2 or 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 2",
        why="Adam for the host is built, and without ZeRO it finds its weights on the GPU and stops at the first step.",
        source=f"{_OFFLOAD}, DeepSpeedZeroOffloadOptimizerConfig; {_ENGINE}, zero_use_cpu_optimizer; "
        "deepspeed/ops/adam/cpu_adam.py, step",
        holds=lambda f: f["optimizer_device"] == "none" or f["zero_stage"] >= 1,
    ),
    _rule(
        id="DSP005",
        title="parameter offload without ZeRO 3",
        field="zero_optimization.offload_param",
        fact="zero_stage",
        needs=("zero_stage", "parameter_device"),
        message="offload_param needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_param.device = {parameter_device}",
        hint="use stage 3, or offload_param.device none",
        repaired=lambda f: 3,
        why="Below stage 3 the setting is dropped without a word, and the weights stay on the GPU.",
        source=f"{_OFFLOAD}, DeepSpeedZeroOffloadParamConfig; {_ENGINE}, _configure_zero_optimizer",
        holds=lambda f: f["parameter_device"] == "none" or f["zero_stage"] == 3,  # noqa: PLR2004
    ),
    _rule(
        id="DSP006",
        title="NVMe offload without ZeRO 3",
        field="zero_optimization.stage",
        fact="zero_stage",
        needs=("zero_stage", "optimizer_device"),
        message="offload_optimizer to nvme needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 3, or offload_optimizer.device cpu",
        repaired=lambda f: 3,
        why="Stages 1 and 2 take any device for the host, so the states fill its memory.",
        source=f"{_READ}: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer",
        holds=lambda f: f["optimizer_device"] != "nvme" or f["zero_stage"] == 3,  # noqa: PLR2004
    ),
    _rule(
        id="DSP007",
        remedy="add",
        title="no batch size",
        field="train_batch_size",
        fact="has_batch",
        needs=("has_batch",),
        message="neither train_batch_size nor train_micro_batch_size_per_gpu is given",
        detail="one of them is needed",
        hint="add train_micro_batch_size_per_gpu",
        added=lambda f: {"train_micro_batch_size_per_gpu": 1},
        why="DeepSpeed asserts that one of them is there.",
        source=f"{_CONFIG}, _set_batch_related_parameters",
        holds=lambda f: f["has_batch"],
    ),
    _rule(
        id="DSP008",
        title="train_batch_size does not divide",
        field="train_batch_size",
        fact="train_batch",
        needs=("train_batch", "batch_unit"),
        message="train_batch_size {train_batch} does not divide by {unit_words} = {batch_unit}",
        detail="{train_batch} % {batch_unit} = {rest}",
        hint="use train_batch_size {near}",
        values=lambda f: {
            "rest": f["train_batch"] % f["batch_unit"],
            "near": listed(_near(f["train_batch"], f["batch_unit"])),
        },
        why="What is not given is computed by division, and DeepSpeed asserts that nothing is left.",
        source=f"{_CONFIG}, _set_batch_related_parameters and _batch_assertion",
        holds=lambda f: f["train_batch"] % f["batch_unit"] == 0,
    ),
    _rule(
        id="DSP009",
        about=("mesh",),
        title="parallel degrees do not divide the GPUs",
        field="tensor_parallel.autotp_size",
        fact="tensor_parallel",
        needs=("tensor_parallel", "num_devices"),
        message="{num_devices} GPUs do not divide by autotp_size x pipeline stages = {group}",
        detail="{num_devices} % {group} = {rest}",
        hint="choose a product of {valid}",
        values=lambda f: {
            "group": _group(f),
            "rest": f["num_devices"] % _group(f),
            "valid": listed(divisors(f["num_devices"])),
        },
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        source=f"{_READ}: deepspeed/utils/groups.py, _ensure_divisibility",
        holds=lambda f: f["num_devices"] % _group(f) == 0,
    ),
    _rule(
        id="DSP010",
        title="amp with ZeRO",
        field="amp.enabled",
        fact="amp",
        needs=("amp", "zero_stage"),
        message="amp.enabled does not go with zero_optimization.stage {zero_stage}",
        detail="amp.enabled = true, zero_optimization.stage = {zero_stage}",
        hint="set amp.enabled to false, and fp16.enabled or bf16.enabled to true",
        repaired=lambda f: False,
        why="ZeRO keeps master weights of its own, which Apex does not know.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check",
        holds=lambda f: not f["amp"] or f["zero_stage"] == 0,
    ),
    _rule(
        id="DSP011",
        title="amp with fp16 or bf16",
        field="amp.enabled",
        fact="amp",
        needs=("amp", "fp16", "bf16"),
        message="amp is enabled beside {other}, and only one of them may be",
        detail="amp.enabled = true",
        hint="set amp.enabled to false",
        repaired=lambda f: False,
        values=lambda f: {"other": "fp16" if f["fp16"] else "bf16"},
        why="Apex casts a model in fp32 by itself.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check",
        holds=lambda f: not (f["amp"] and (f["fp16"] or f["bf16"])),
    ),
    _rule(
        id="DSP012",
        title="automatic tensor parallelism with ZeRO 3",
        field="zero_optimization.stage",
        fact="zero_stage",
        needs=("zero_stage", "tensor_parallel"),
        message="tensor_parallel.autotp_size {tensor_parallel} does not go with zero_optimization.stage 3",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use stage 2, or autotp_size 1",
        why="DeepSpeed asserts against it, as their weights are divided in two ways.",
        source=f"{_ENGINE}, _configure_tensor_parallel",
        holds=lambda f: f["tensor_parallel"] == 1 or f["zero_stage"] <= 2,  # noqa: PLR2004
    ),
    _rule(
        id="DSP013",
        title="partial offload without ZeRO 3",
        field="zero_optimization.offload_optimizer.ratio",
        fact="offload_ratio",
        needs=("offload_ratio", "zero_stage"),
        message="offload_optimizer.ratio {offload_ratio} needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use ratio 1.0, or stage 3",
        repaired=lambda f: 1.0,
        why="Only stage 3 steps a part of its states on the GPU.",
        source=f"{_ZERO}, offload_ratio_check",
        holds=lambda f: f["offload_ratio"] >= 1 or f["zero_stage"] == 3,  # noqa: PLR2004
    ),
    _rule(
        id="DSP014",
        title="ZeRO 2 or 3 with a pipeline",
        field="zero_optimization.stage",
        fact="zero_stage",
        needs=("zero_stage", "pipeline_stages"),
        message="zero_optimization.stage {zero_stage} does not go with a pipeline of {pipeline_stages} stages",
        detail="pipeline.stages = {pipeline_stages}",
        hint="use stage 1",
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them.",
        source=f"{_READ}: deepspeed/runtime/pipe/engine.py, PipelineEngine",
        holds=lambda f: f["pipeline_stages"] == 1 or f["zero_stage"] <= 1,
    ),
    _rule(
        id="DSP015",
        title="1-bit optimizers with ZeRO",
        field="optimizer.type",
        fact="zero_stage",
        needs=("zero_stage", "optimizer_type"),
        message="optimizer {optimizer_type} does not go with zero_optimization.stage {zero_stage}",
        detail="optimizer.type = {optimizer_type}",
        hint="use stage 0, or optimizer AdamW",
        repaired=lambda f: 0,
        why="It compresses whole momenta, which ZeRO would divide.",
        source=f"{_ENGINE}, _configure_basic_optimizer",
        holds=lambda f: f["zero_stage"] == 0 or f["optimizer_type"].lower() not in ONE_BIT,
    ),
    _rule(
        id="DSP016",
        remedy="add",
        title="an optimizer that ZeRO was not tested with",
        field="optimizer.type",
        fact="optimizer_type",
        needs=("zero_stage", "optimizer_type", "untested_allowed"),
        message="ZeRO stage {zero_stage} takes optimizer {optimizer_type} only with zero_allow_untested_optimizer",
        detail="optimizer.type = {optimizer_type}",
        hint='add "zero_allow_untested_optimizer": true, or use AdamW',
        added=lambda f: {"zero_allow_untested_optimizer": True},
        why="DeepSpeed asserts it, as states of other optimizers may not divide element by element.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check; deepspeed/runtime/zero/utils.py, ZERO_SUPPORTED_OPTIMIZERS",
        holds=lambda f: (
            f["zero_stage"] == 0 or f["untested_allowed"] or f["optimizer_type"].lower() in (*ZERO_OPTIMIZERS, *ONE_BIT)
        ),
    ),
    _rule(
        id="DSP017",
        title="half-precision master weights without ZeRO 2",
        field="fp16.fp16_master_weights_and_grads",
        fact="half_master",
        needs=("half_master", "zero_stage", "optimizer_device"),
        message="fp16_master_weights_and_grads needs ZeRO stage 2 with the optimizer on the host",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="set fp16_master_weights_and_grads to false",
        repaired=lambda f: False,
        why="Only Adam on the host steps half-precision master weights.",
        source=f"{_CONFIG}, _do_error_check; deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer",
        holds=lambda f: (
            not f["half_master"] or (f["zero_stage"] == 2 and f["optimizer_device"] != "none")  # noqa: PLR2004
        ),
    ),
)
