"""For every rule of DeepSpeed's configuration a file that breaks it and one that keeps it."""

from tests.unit.lint.config_rule_cases import Case, deepspeed

_NVME = '"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"%s}}'
_STAGE2 = '"zero_optimization": {"stage": 2}'

CASES = (
    Case(
        "DSP010",
        "a.json",
        deepspeed(f'"amp": {{"enabled": true}}, {_STAGE2}'),
        deepspeed('"amp": {"enabled": true}'),
        "amp.enabled does not go with zero_optimization.stage 2",
    ),
    Case(
        "DSP011",
        "a.json",
        deepspeed('"amp": {"enabled": true}, "fp16": {"enabled": true}'),
        deepspeed('"amp": {"enabled": true}, "fp16": {"enabled": false}'),
        "amp is enabled beside fp16, and only one of them may be",
    ),
    Case(
        "DSP012",
        "a.json",
        deepspeed('"tensor_parallel": {"autotp_size": 2}, "zero_optimization": {"stage": 3}'),
        deepspeed(f'"tensor_parallel": {{"autotp_size": 2}}, {_STAGE2}'),
        "tensor_parallel.autotp_size 2 does not go with zero_optimization.stage 3",
    ),
    Case(
        "DSP013",
        "a.json",
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}'),
        deepspeed('"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu", "ratio": 0.5}}'),
        "offload_optimizer.ratio 0.5 needs ZeRO stage 3, and the stage is 2",
    ),
    Case(
        "DSP014",
        "a.json",
        deepspeed(f'"pipeline": {{"stages": 2}}, {_STAGE2}'),
        deepspeed('"pipeline": {"stages": 2}, "zero_optimization": {"stage": 1}'),
        "zero_optimization.stage 2 does not go with a pipeline of 2 stages",
    ),
    Case(
        "DSP015",
        "a.json",
        deepspeed(f'"optimizer": {{"type": "OneBitAdam"}}, {_STAGE2}'),
        deepspeed('"optimizer": {"type": "OneBitAdam"}'),
        "optimizer OneBitAdam does not go with zero_optimization.stage 2",
    ),
    Case(
        "DSP016",
        "a.json",
        deepspeed(f'"optimizer": {{"type": "Lamb"}}, {_STAGE2}'),
        deepspeed(f'"optimizer": {{"type": "Lamb"}}, "zero_allow_untested_optimizer": true, {_STAGE2}'),
        "ZeRO stage 2 takes optimizer Lamb only with zero_allow_untested_optimizer",
    ),
    Case(
        "DSP017",
        "a.json",
        deepspeed(f'"fp16": {{"enabled": true, "fp16_master_weights_and_grads": true}}, {_STAGE2}'),
        deepspeed(
            '"fp16": {"enabled": true, "fp16_master_weights_and_grads": true}, '
            '"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'
        ),
        "fp16_master_weights_and_grads needs ZeRO stage 2 with the optimizer on the host",
    ),
    Case(
        "DSP001",
        "a.json",
        deepspeed('"train_batch_size": 30, "gradient_accumulation_steps": 1'),
        deepspeed('"train_batch_size": 32, "gradient_accumulation_steps": 1'),
        "train_batch_size is 30, and micro batch x accumulation x DP is 32",
    ),
    Case(
        "DSP002",
        "a.json",
        deepspeed('"fp16": {"enabled": true}, "bf16": {"enabled": true}'),
        deepspeed('"fp16": {"enabled": false}, "bf16": {"enabled": true}'),
        "fp16 and bf16 are both enabled, and only one of them may be",
    ),
    Case(
        "DSP003",
        "a.json",
        deepspeed('"zero_optimization": {"stage": 4}'),
        deepspeed('"zero_optimization": {"stage": 3}'),
        "zero_optimization.stage 4 is none of 0, 1, 2, 3",
    ),
    Case(
        "DSP004",
        "a.json",
        deepspeed('"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}'),
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'),
        "offload_optimizer needs ZeRO stage 1, 2 or 3, and the stage is 0",
    ),
    Case(
        "DSP005",
        "a.json",
        deepspeed('"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}'),
        deepspeed('"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}'),
        "offload_param needs ZeRO stage 3, and the stage is 2",
    ),
    Case(
        "DSP006",
        "a.json",
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/"}}'),
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'),
        "offload_optimizer to nvme needs ZeRO stage 3, and the stage is 2",
    ),
    Case(
        "DSP007",
        "a.json",
        '{"zero_optimization": {"stage": 1}}',
        deepspeed('"zero_optimization": {"stage": 1}'),
        "neither train_batch_size nor train_micro_batch_size_per_gpu is given",
    ),
    Case(
        "DSP008",
        "a.json",
        deepspeed('"train_batch_size": 40'),
        deepspeed('"train_batch_size": 64'),
        "train_batch_size 40 does not divide by micro batch x DP = 32",
    ),
    Case(
        "DSP009",
        "a.json",
        deepspeed('"tensor_parallel": {"autotp_size": 3}'),
        deepspeed('"tensor_parallel": {"autotp_size": 2}'),
        "8 GPUs do not divide by autotp_size x pipeline stages = 3",
    ),
    Case(
        "NVM004",
        "a.json",
        deepspeed(_NVME % ', "nvme_path": "/no/such/folder"'),
        deepspeed(_NVME % ', "nvme_path": "/"'),
        "nvme_path /no/such/folder does not exist on this machine",
    ),
    Case(
        "NVM005",
        "a.json",
        deepspeed(_NVME % ""),
        deepspeed(_NVME % ', "nvme_path": "/"'),
        "states go to NVMe, and there is no nvme_path",
    ),
)
