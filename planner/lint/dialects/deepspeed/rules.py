"""Rules of DeepSpeed's JSON configuration that a layout does not show."""

from planner.lint.config_rule import apply, divides, multiples_around, rules_of
from planner.lint.dialects.deepspeed.keys import DIALECT

_READ = "DeepSpeed 0.16.5 at 38327e0 (February 2025)"
"""The version whose source every rule of DeepSpeed was read in."""
_CONFIG = f"{_READ}: deepspeed/runtime/config.py"
_ENGINE = f"{_READ}: deepspeed/runtime/engine.py"
_ZERO = f"{_READ}: deepspeed/runtime/zero/config.py"
_OFFLOAD = f"{_READ}: deepspeed/runtime/zero/offload_config.py"
ONE_BIT = ("onebitadam", "zerooneadam", "onebitlamb")
ZERO_OPTIMIZERS = ("adam", "adamw", "adagrad", "lion")
"""Optimizers of DeepSpeed's own names whose classes are in ZERO_SUPPORTED_OPTIMIZERS."""

_rule = rules_of(DIALECT.facts, DIALECT.name)


def _product(train_micro_batch: int, gradient_accumulation_steps: int, data_parallel: int) -> int:
    return train_micro_batch * gradient_accumulation_steps * data_parallel


RULES = (
    _rule("DSP001", "train_batch_size is not micro batch x accumulation x DP")(
        needs=("train_batch", "train_micro_batch", "gradient_accumulation_steps", "data_parallel"),
        message="train_batch_size is {train_batch}, and micro batch x accumulation x DP is {product}",
        detail="{train_micro_batch} * {gradient_accumulation_steps} * {data_parallel} = {product}",
        hint="use train_batch_size {product}",
        values=lambda **facts: {"product": apply(_product, facts)},
        repaired=_product,
        why="DeepSpeed asserts it before it builds anything.",
        source=f"{_CONFIG}, _batch_assertion",
        holds=lambda train_batch, **batch: train_batch == apply(_product, batch),
    ),
    _rule("DSP002", "fp16 and bf16 together")(
        message="fp16 and bf16 are both enabled, and only one of them may be",
        detail="fp16.enabled and bf16.enabled are true",
        hint="set fp16.enabled or bf16.enabled to false",
        repaired=lambda: False,
        why="Weights have one precision.",
        source=f"{_CONFIG}, _initialize_params",
        holds=lambda fp16, bf16: not (fp16 and bf16),
    ),
    _rule("DSP003", "a ZeRO stage that does not exist")(
        message="zero_optimization.stage {zero_stage} is none of 0, 1, 2, 3",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use stage 0, 1, 2 or 3",
        why="There are no other stages.",
        source=f"{_ZERO}, ZeroStageEnum",
        holds=lambda zero_stage: zero_stage in (0, 1, 2, 3),
    ),
    _rule("DSP004", "optimizer offload without ZeRO")(
        field="zero_optimization.offload_optimizer",
        message="offload_optimizer needs ZeRO stage 1, 2 or 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 2",
        why="Adam for the host is built, and without ZeRO it finds its weights on the GPU and stops at the first step.",
        source=f"{_OFFLOAD}, DeepSpeedZeroOffloadOptimizerConfig; {_ENGINE}, zero_use_cpu_optimizer; "
        "deepspeed/ops/adam/cpu_adam.py, step",
        holds=lambda zero_stage, optimizer_device: optimizer_device == "none" or zero_stage >= 1,
    ),
    _rule("DSP005", "parameter offload without ZeRO 3", severity="warning")(
        field="zero_optimization.offload_param",
        message="offload_param needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_param.device = {parameter_device}",
        hint="use stage 3, or offload_param.device none",
        repaired=lambda: 3,
        why="Below stage 3 the setting is dropped without a word, and the weights stay on the GPU.",
        source=f"{_OFFLOAD}, DeepSpeedZeroOffloadParamConfig; {_ENGINE}, _configure_zero_optimizer",
        holds=lambda zero_stage, parameter_device: parameter_device == "none" or zero_stage == 3,  # noqa: PLR2004
    ),
    _rule("DSP006", "NVMe offload without ZeRO 3")(
        message="offload_optimizer to nvme needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="use stage 3, or offload_optimizer.device cpu",
        repaired=lambda: 3,
        why="Stages 1 and 2 take any device for the host, so the states fill its memory.",
        source=f"{_READ}: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer",
        holds=lambda zero_stage, optimizer_device: optimizer_device != "nvme" or zero_stage == 3,  # noqa: PLR2004
    ),
    _rule("DSP007", "no batch size")(
        message="neither train_batch_size nor train_micro_batch_size_per_gpu is given",
        detail="one of them is needed",
        hint="add train_micro_batch_size_per_gpu",
        added=lambda: {"train_micro_batch_size_per_gpu": 1},
        why="DeepSpeed asserts that one of them is there.",
        source=f"{_CONFIG}, _set_batch_related_parameters",
        holds=lambda has_batch: has_batch,
    ),
    _rule("DSP008", "train_batch_size does not divide")(
        message="train_batch_size {train_batch} does not divide by {unit_words} = {batch_unit}",
        detail="{train_batch} % {batch_unit} = {rest}",
        hint="use train_batch_size {near}",
        values=lambda train_batch, batch_unit: {
            "rest": train_batch % batch_unit,
            "near": multiples_around(train_batch, batch_unit),
        },
        why="What is not given is computed by division, and DeepSpeed asserts that nothing is left.",
        source=f"{_CONFIG}, _set_batch_related_parameters and _batch_assertion",
        holds=lambda train_batch, batch_unit: train_batch % batch_unit == 0,
    ),
    _rule("DSP009", "parallel degrees do not divide the GPUs", about=("mesh",))(
        message="{num_devices} GPUs do not divide by autotp_size x pipeline stages = {group}",
        detail="{num_devices} % {group} = {rest}",
        hint="choose a product of {valid}",
        **divides("tensor_parallel", given=("pipeline_stages",)),
        why="Data parallelism is what is left of the GPUs, and it has to be a whole number.",
        source=f"{_READ}: deepspeed/utils/groups.py, _ensure_divisibility",
    ),
    _rule("DSP010", "amp with ZeRO")(
        message="amp.enabled does not go with zero_optimization.stage {zero_stage}",
        detail="amp.enabled = true, zero_optimization.stage = {zero_stage}",
        hint="set amp.enabled to false, and fp16.enabled or bf16.enabled to true",
        repaired=lambda: False,
        why="ZeRO keeps master weights of its own, which Apex does not know.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check",
        holds=lambda amp, zero_stage: not amp or zero_stage == 0,
    ),
    _rule("DSP011", "amp with fp16 or bf16")(
        message="amp is enabled beside {other}, and only one of them may be",
        detail="amp.enabled = true",
        hint="set amp.enabled to false",
        repaired=lambda: False,
        values=lambda fp16: {"other": "fp16" if fp16 else "bf16"},
        why="Apex casts a model in fp32 by itself.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check",
        holds=lambda amp, fp16, bf16: not (amp and (fp16 or bf16)),
    ),
    _rule("DSP012", "automatic tensor parallelism with ZeRO 3")(
        message="tensor_parallel.autotp_size {tensor_parallel} does not go with zero_optimization.stage 3",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use stage 2, or autotp_size 1",
        why="DeepSpeed asserts against it, as their weights are divided in two ways.",
        source=f"{_ENGINE}, _configure_tensor_parallel",
        holds=lambda zero_stage, tensor_parallel: tensor_parallel == 1 or zero_stage <= 2,  # noqa: PLR2004
    ),
    _rule("DSP013", "partial offload without ZeRO 3")(
        message="offload_optimizer.ratio {offload_ratio} needs ZeRO stage 3, and the stage is {zero_stage}",
        detail="zero_optimization.stage = {zero_stage}",
        hint="use ratio 1.0, or stage 3",
        repaired=lambda: 1.0,
        why="Only stage 3 steps a part of its states on the GPU.",
        source=f"{_ZERO}, offload_ratio_check",
        holds=lambda offload_ratio, zero_stage: offload_ratio >= 1 or zero_stage == 3,  # noqa: PLR2004
    ),
    _rule("DSP014", "ZeRO 2 or 3 with a pipeline")(
        message="zero_optimization.stage {zero_stage} does not go with a pipeline of {pipeline_stages} stages",
        detail="pipeline.stages = {pipeline_stages}",
        hint="use stage 1",
        why="Gradients accumulate over micro batches, so they cannot be scattered after each of them.",
        source=f"{_READ}: deepspeed/runtime/pipe/engine.py, PipelineEngine",
        holds=lambda zero_stage, pipeline_stages: pipeline_stages == 1 or zero_stage <= 1,
    ),
    _rule("DSP015", "1-bit optimizers with ZeRO")(
        field="optimizer.type",
        message="optimizer {optimizer_type} does not go with zero_optimization.stage {zero_stage}",
        detail="optimizer.type = {optimizer_type}",
        hint="use stage 0, or optimizer AdamW",
        repaired=lambda: 0,
        why="It compresses whole momenta, which ZeRO would divide.",
        source=f"{_ENGINE}, _configure_basic_optimizer",
        holds=lambda zero_stage, optimizer_type: zero_stage == 0 or optimizer_type.lower() not in ONE_BIT,
    ),
    _rule("DSP016", "an optimizer that ZeRO was not tested with")(
        fact="optimizer_type",
        message="ZeRO stage {zero_stage} takes optimizer {optimizer_type} only with zero_allow_untested_optimizer",
        detail="optimizer.type = {optimizer_type}",
        hint='add "zero_allow_untested_optimizer": true, or use AdamW',
        added=lambda: {"zero_allow_untested_optimizer": True},
        why="DeepSpeed asserts it, as states of other optimizers may not divide element by element.",
        source=f"{_ENGINE}, _do_optimizer_sanity_check; deepspeed/runtime/zero/utils.py, ZERO_SUPPORTED_OPTIMIZERS",
        holds=lambda zero_stage, optimizer_type, untested_allowed: (
            zero_stage == 0 or untested_allowed or optimizer_type.lower() in (*ZERO_OPTIMIZERS, *ONE_BIT)
        ),
    ),
    _rule("DSP017", "half-precision master weights without ZeRO 2")(
        message="fp16_master_weights_and_grads needs ZeRO stage 2 with the optimizer on the host",
        detail="zero_optimization.stage = {zero_stage}, offload_optimizer.device = {optimizer_device}",
        hint="set fp16_master_weights_and_grads to false",
        repaired=lambda: False,
        why="Only Adam on the host steps half-precision master weights.",
        source=f"{_CONFIG}, _do_error_check; deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer",
        holds=lambda half_master, zero_stage, optimizer_device: (
            not half_master or (zero_stage == 2 and optimizer_device != "none")  # noqa: PLR2004
        ),
    ),
)
