"""Files that break and keep the rules of the frameworks that tables describe."""

from tests.unit.lint.config_rule_cases import Case

_NANOTRON = (
    "parallelism:\n  dp: %s\n  pp: %s\n  tp: 2\ntokens:\n  micro_batch_size: 1\n  batch_accumulation_per_replica: 4\n"
    "optimizer:\n  zero_stage: %s\n"
)
_NEOX = (
    "pipe_parallel_size: %s\nmodel_parallel_size: 1\nnum_layers: 12\ntrain_micro_batch_size_per_gpu: 2\n"
    "gradient_accumulation_steps: 2\ntrain_batch_size: %s\nzero_optimization:\n  stage: %s\n"
)
_NEMO = (
    "model:\n  tensor_model_parallel_size: 1\n  pipeline_model_parallel_size: %s\n  micro_batch_size: 2\n"
    "  global_batch_size: %s\n  num_layers: 12\n"
)
_TITAN = (
    '[model]\nname = "llama3"\n[training]\nseq_len = 2048\nlocal_batch_size = 2\n[parallelism]\n'
    "tensor_parallel_degree = %s\n"
)
_ACCELERATE = "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: %s\n"

CASES = (
    Case("PAR001", "a.toml", _TITAN % 3, _TITAN % 4, "8 GPUs do not divide by TP x PP x CP = 3"),
    Case(
        "PAR002",
        "a.yaml",
        _NANOTRON % (8, 1, 0),
        _NANOTRON % (4, 1, 0),
        "data parallelism is 8, and 4 ranks are left of 8 GPUs",
    ),
    Case(
        "PAR003",
        "a.yml",
        _NEOX % (1, 48, 1),
        _NEOX % (1, 32, 1),
        "the global batch is 48, and micro batch x accumulation x DP is 32",
    ),
    Case(
        "PAR004",
        "a.yaml",
        _NEMO % (1, 24),
        _NEMO % (1, 32),
        "the global batch 24 does not divide by micro batch x DP = 16",
    ),
    Case("PAR005", "a.yaml", _ACCELERATE % 2, _ACCELERATE % 8, "the file is for 2 processes, and 8 GPUs are checked"),
    Case("PAR006", "a.yaml", _NEMO % (8, 16), _NEMO % (4, 16), "12 layers do not divide by 8 stages"),
    Case("PAR007", "a.yml", _NEOX % (2, 16, 2), _NEOX % (2, 16, 1), "ZeRO stage 2 does not go with 2 stages"),
)
