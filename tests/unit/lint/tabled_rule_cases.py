"""Files that break and keep the rules of the frameworks that tables describe."""

from tests.unit.lint.config_rule_cases import Case

_NANOTRON = (
    "parallelism:\n  dp: %s\n  pp: %s\n  tp: 2\ntokens:\n  micro_batch_size: 1\n  batch_accumulation_per_replica: 4\n"
    "  sequence_length: 2048\noptimizer:\n  zero_stage: %s\n"
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
_SIZES = (
    "pipe_parallel_size: 1\nmodel_parallel_size: 2\nnum_layers: 12\nhidden_size: %s\nnum_attention_heads: %s\n"
    "num_kv_heads: %s\nseq_length: 2048\nmax_position_embeddings: %s\ntrain_micro_batch_size_per_gpu: 2\n"
)
_TITAN_PIPE = (
    '[model]\nname = "llama3"\n[training]\nseq_len = 2048\nlocal_batch_size = %s\n[parallelism]\n'
    "pipeline_parallel_degree = 2\npipeline_parallel_microbatch_size = 2\n"
)
_TITAN_LAYERS = _TITAN_PIPE % 4 + "pipeline_parallel_layers_per_stage = %s\n"
_TITAN_ENDS = _TITAN_PIPE % 4 + "pipeline_parallel_first_stage_less_layers = %s\n"
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
    Case(
        "PAR008",
        "a.yml",
        _SIZES % (770, 12, 12, 2048),
        _SIZES % (768, 12, 12, 2048),
        "hidden size 770 does not divide by 12 attention heads",
    ),
    Case(
        "PAR009",
        "a.yml",
        _SIZES % (765, 15, 1, 2048),
        _SIZES % (768, 12, 12, 2048),
        "15 attention heads do not divide by tensor parallelism 2",
    ),
    Case(
        "PAR010",
        "a.yml",
        _SIZES % (768, 12, 3, 2048),
        _SIZES % (768, 12, 4, 2048),
        "3 heads of keys and values do not divide 12 heads, or 2 ranks them",
    ),
    Case(
        "PAR011",
        "a.yml",
        (_SIZES % (768, 12, 12, 2048)).replace("num_layers: 12\n", ""),
        _SIZES % (768, 12, 12, 2048),
        "num_layers is not given, and it has no default",
    ),
    Case(
        "PAR012",
        "a.yml",
        _SIZES % (768, 12, 12, 2048) + "precision: fp32\nfp16:\n  enabled: true\n",
        _SIZES % (768, 12, 12, 2048) + "precision: fp16\nfp16:\n  enabled: true\n",
        "precision is fp32, and a switch of DeepSpeed says fp16",
    ),
    Case(
        "PAR013",
        "a.yml",
        _SIZES % (768, 12, 12, 1024),
        _SIZES % (768, 12, 12, 2048),
        "the model has 1024 positions, and a sequence has 2048 tokens",
    ),
    Case(
        "PAR014", "a.toml", _TITAN_PIPE % 3, _TITAN_PIPE % 4, "the local batch 3 does not divide by 2 for the pipeline"
    ),
    Case(
        "PAR015",
        "a.toml",
        _TITAN_LAYERS % 3,
        _TITAN_LAYERS % 9,
        "3 layers a chunk make 6 chunks, which 2 stages cannot share under their schedule",
        model="llama3.2-1b",
    ),
    Case(
        "PAR016",
        "a.toml",
        _TITAN_ENDS % 30,
        _TITAN_ENDS % 8,
        "an end of the pipeline counts as 30 layers, and a chunk has 23",
        model="llama3.2-1b",
    ),
)
