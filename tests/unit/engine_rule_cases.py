"""The same for the rules of Megatron-LM, DeepSpeed and NVMe."""

from tests.unit.config_rule_cases import Case, deepspeed, megatron

_NVME = '"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "nvme"%s}}'
_TP = "--tensor-model-parallel-size"

CASES = (
    Case(
        "MEG001", "a.sh", megatron(f"{_TP} 3"), megatron(f"{_TP} 2"),
        "world size 8 does not divide by TP x PP x CP = 3"
    ),
    Case(
        "MEG002", "a.sh", megatron("--num-layers-per-virtual-pipeline-stage 2"),
        megatron("--num-layers-per-virtual-pipeline-stage 2 --pipeline-model-parallel-size 2 --global-batch-size 16"),
        "an interleaved schedule needs --pipeline-model-parallel-size above 1, and it is 1",
    ),
    Case(
        "MEG003", "a.sh", megatron(f"{_TP} 4 --num-query-groups 6"), megatron(f"{_TP} 2 --num-query-groups 6"),
        "--num-query-groups 6 and --tensor-model-parallel-size 4 do not divide each other",
    ),
    Case(
        "MEG004", "a.sh", megatron("--expert-model-parallel-size 2"),
        megatron("--expert-model-parallel-size 2 --num-experts 4"),
        "--expert-model-parallel-size 2 needs --num-experts, and it is not given",
    ),
    Case(
        "MEG005", "a.sh", megatron("--expert-model-parallel-size 4 --num-experts 6"),
        megatron("--expert-model-parallel-size 2 --num-experts 6"),
        "--num-experts 6 does not divide by --expert-model-parallel-size 4",
    ),
    Case(
        "MEG006", "a.sh", megatron("--expert-model-parallel-size 3 --num-experts 6"),
        megatron("--expert-model-parallel-size 2 --num-experts 6"),
        "world size 8 does not divide by expert TP x EP x PP = 3",
    ),
    Case("MEG007", "a.sh", megatron("--fp16 --bf16"), megatron("--bf16"),
         "--fp16 and --bf16 are both given, and only one of them may be"),
    Case(
        "MEG008", "a.sh", megatron("--global-batch-size 12"), megatron("--global-batch-size 16"),
        "--global-batch-size 12 does not divide by micro batch x DP = 8",
    ),
    Case(
        "MEG009", "a.sh", megatron("--recompute-granularity full"),
        megatron("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1"),
        "--recompute-granularity full needs --recompute-method, and it is not given",
    ),
    Case(
        "MEG010", "a.sh", megatron("--num-layers 12 --hidden-size 770 --num-attention-heads 12"), megatron(""),
        "--hidden-size 770 does not divide by --num-attention-heads 12",
    ),
    Case(
        "MEG011", "a.sh", megatron("--bf16").replace("torchrun", "torchrun --nproc_per_node 4"), megatron("--bf16"),
        "the launcher starts 4 processes, and 8 GPUs are checked",
    ),
    Case(
        "DSP001", "a.json", deepspeed('"train_batch_size": 30, "gradient_accumulation_steps": 1'),
        deepspeed('"train_batch_size": 32, "gradient_accumulation_steps": 1'),
        "train_batch_size is 30, and micro batch x accumulation x DP is 32",
    ),
    Case(
        "DSP002", "a.json", deepspeed('"fp16": {"enabled": true}, "bf16": {"enabled": true}'),
        deepspeed('"fp16": {"enabled": false}, "bf16": {"enabled": true}'),
        "fp16 and bf16 are both enabled, and only one of them may be",
    ),
    Case(
        "DSP003", "a.json", deepspeed('"zero_optimization": {"stage": 4}'),
        deepspeed('"zero_optimization": {"stage": 3}'),
        "zero_optimization.stage 4 is none of 0, 1, 2, 3",
    ),
    Case(
        "DSP004", "a.json", deepspeed('"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}'),
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'),
        "offload_optimizer needs ZeRO stage 1, 2 or 3, and the stage is 0",
    ),
    Case(
        "DSP005", "a.json", deepspeed('"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}'),
        deepspeed('"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}'),
        "offload_param needs ZeRO stage 3, and the stage is 2",
    ),
    Case(
        "DSP006", "a.json",
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "nvme", "nvme_path": "/"}}'),
        deepspeed('"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}'),
        "offload_optimizer to nvme needs ZeRO stage 3, and the stage is 2",
    ),
    Case(
        "DSP007", "a.json", '{"zero_optimization": {"stage": 1}}', deepspeed('"zero_optimization": {"stage": 1}'),
        "neither train_batch_size nor train_micro_batch_size_per_gpu is given",
    ),
    Case(
        "DSP008", "a.json", deepspeed('"train_batch_size": 40'), deepspeed('"train_batch_size": 64'),
        "train_batch_size 40 does not divide by micro batch x DP = 32",
    ),
    Case(
        "DSP009", "a.json", deepspeed('"tensor_parallel": {"autotp_size": 3}'),
        deepspeed('"tensor_parallel": {"autotp_size": 2}'),
        "tensor_parallel.autotp_size 3 does not divide 8 GPUs",
    ),
    Case(
        "NVM004", "a.json", deepspeed(_NVME % ', "nvme_path": "/no/such/folder"'),
        deepspeed(_NVME % ', "nvme_path": "/"'),
        "nvme_path /no/such/folder does not exist on this machine",
    ),
    Case(
        "NVM005", "a.json", deepspeed(_NVME % ""), deepspeed(_NVME % ', "nvme_path": "/"'),
        "states go to NVMe, and there is no nvme_path",
    ),
)  # fmt: skip
