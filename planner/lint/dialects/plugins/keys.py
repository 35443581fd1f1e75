"""What the plugins of Colossal-AI 0.5.0 take: names, arguments, and what they tell the rules."""

from planner.lint.draft import Dialect, Fact

HYBRID, GEMINI, LOW_LEVEL_ZERO, DDP = "HybridParallelPlugin", "GeminiPlugin", "LowLevelZeroPlugin", "TorchDDPPlugin"
PLUGINS = "colossalai 0.5.0: booster/plugin"
"""Where their source is."""
BOOSTER = "Booster"
GPT2_CONFIG = "GPT2Config"
BESIDE = (BOOSTER, GPT2_CONFIG)
"""Classes whose calls are no configuration by themselves."""
BATCH = ("batch_size", "BATCH_SIZE", "local_batch_size", "per_device_batch_size", "train_batch_size_per_rank")
SEQUENCE = ("seq_len", "SEQ_LEN", "seq_length", "max_length", "sequence_length")
MODEL = ("model.type", "model", "model_name", "MODEL", "config")
CONTEXT = {*BATCH, *SEQUENCE, *MODEL, "optimizer", "gradient_checkpointing", "plugin", "gpus"}
"""Keys of a data file that stand beside the plugin's own arguments."""
SEQUENCE_MODES = ("split_gather", "ring", "all_to_all", "ring_attn")
PIPELINE_STYLES = ("1f1b", "interleaved", "zbv")
MIXED_PRECISIONS = ("fp16", "fp16_apex", "fp16_naive", "bf16", "fp8")
GEMINI_OPTIMIZERS = ("FusedAdam", "CPUAdam", "HybridAdam")
OPTIMIZERS = (
    *GEMINI_OPTIMIZERS,
    *("AdamW", "Adam", "SGD", "FusedLAMB", "FusedSGD", "Lamb", "Adafactor", "CAME"),
    *("DistributedLamb", "DistributedAdaFactor", "DistributedCAME", "DistGaloreAwamW"),
)

_HYBRID = """
    tp_size pp_size sp_size precision zero_stage enable_all_optimization enable_fused_normalization
    enable_flash_attention enable_jit_fused enable_sequence_parallelism sequence_parallelism_mode parallel_output
    num_microbatches microbatch_size initial_scale min_scale growth_factor backoff_factor growth_interval hysteresis
    max_scale max_norm broadcast_buffers ddp_bucket_cap_mb find_unused_parameters check_reduction
    gradient_as_bucket_view static_graph zero_bucket_size_in_m cpu_offload communication_dtype overlap_communication
    custom_policy pp_style num_model_chunks scheduler_nodes num_layers_per_stage gradient_checkpoint_config
    enable_metadata_cache make_vocab_size_divisible_by dp_outside overlap_p2p overlap_allgather fp8_communication
    use_fp8 inner_ring_size
"""
_GEMINI = """
    chunk_config_dict chunk_init_device placement_policy enable_gradient_accumulation max_prefetch shard_param_frac
    offload_optim_frac offload_param_frac warmup_non_model_data_ratio steady_cuda_cap_ratio precision master_weights
    pin_memory force_outputs_fp32 strict_ddp_mode search_range_m hidden_dim min_chunk_size_m memstats
    gpu_margin_mem_ratio initial_scale min_scale growth_factor backoff_factor growth_interval hysteresis max_scale
    max_norm norm_type tp_size extra_dp_size enable_all_optimization enable_fused_normalization
    enable_flash_attention enable_sequence_parallelism enable_jit_fused enable_async_reduce use_fp8 verbose
    fp8_communication
"""
_LOW_LEVEL_ZERO = """
    stage precision initial_scale min_scale growth_factor backoff_factor growth_interval hysteresis max_scale
    max_norm norm_type reduce_bucket_size_in_m communication_dtype overlap_communication overlap_allgather
    cpu_offload master_weights verbose cast_inputs fp8_communication use_fp8 extra_dp_size
"""
_DDP = """
    broadcast_buffers bucket_cap_mb find_unused_parameters check_reduction gradient_as_bucket_view static_graph
    fp8_communication
"""
ARGUMENTS = {
    name: tuple(arguments.split())
    for name, arguments in ((HYBRID, _HYBRID), (GEMINI, _GEMINI), (LOW_LEVEL_ZERO, _LOW_LEVEL_ZERO), (DDP, _DDP))
}
"""Arguments of each plugin in their order; a test compares them with the installed library."""
REQUIRED: dict[str, tuple[str, ...]] = {HYBRID: ("tp_size", "pp_size")}
"""Arguments without a default."""
GPT2_ARGUMENTS = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"),
    *("activation_function", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
"""The first arguments of transformers 4.51.3's GPT2Config, in their order."""
MOE_HYBRID = "MoeHybridParallelPlugin"
"""HybridParallelPlugin with experts; its arguments are given by name."""
MOE_ONLY = (
    "ep_size",
    "moe_dp_outside",
    "use_ep_inside",
    "moe_tp_size",
    "checkpoint_io",
    "use_kernel_optim",
    "custom_ep",
)
"""Arguments that it has beside those, over its versions."""
KNOWN_CALLS = {
    **ARGUMENTS,
    MOE_HYBRID: ("ep_size", *ARGUMENTS[HYBRID]),
    BOOSTER: ("device", "mixed_precision", "plugin"),
    GPT2_CONFIG: GPT2_ARGUMENTS,
}
"""Classes whose calls are looked for in Python files, with their arguments in order."""

_SHARED = {
    "batch_size": Fact(int, "sequences that a data-parallel rank loads"),
    "calls_lora": Fact(bool, "whether enable_lora() is called"),
    "calls_no_sync": Fact(bool, "whether no_sync() is called"),
    "model": Fact(str, "name of the model, which is one of GPT-2's"),
    "n_embd": Fact(int, "hidden size of GPT2Config"),
    "n_head": Fact(int, "attention heads of GPT2Config"),
    "num_devices": Fact(int, "GPUs"),
    "optimizer": Fact(str, "the one optimizer that the file names"),
    "uses_galore": Fact(bool, "whether DistGaloreAwamW is called"),
}
_OF_HYBRID = {
    "enable_sequence_parallelism": Fact(
        bool, "whether the sequence is divided", default=False, field="sequence_parallel"
    ),
    "ep_size": Fact(int, "ranks that divide the experts, of the plugin that has some"),
    "family": Fact(str, "family of the model"),
    "has_microbatches": Fact(bool, "whether the number or the size of micro batches is given"),
    "has_scheduler_nodes": Fact(bool, "whether a zero-bubble schedule is given"),
    "inner_ring_size": Fact(int, "ranks of an inner ring"),
    "is_tied": Fact(bool, "whether the embedding is the head as well"),
    "max_norm": Fact(float, "norm to which gradients are clipped", default=0.0),
    "microbatch_size": Fact(int, "sequences of a micro batch", field="micro_batch"),
    "missing_argument": Fact(str, "an argument without a default that a call lacks", "tp_size"),
    "num_layers": Fact(int, "layers of the model"),
    "num_layers_per_stage": Fact(tuple, "layers of each stage"),
    "num_microbatches": Fact(int, "pieces that the batch is cut into"),
    "num_model_chunks": Fact(int, "runs of layers of a stage", default=1),
    "pp_size": Fact(int, "stages", default=1, field="pipeline_parallel"),
    "pp_style": Fact(str, "schedule of the pipeline", default="1f1b", field="schedule"),
    "precision": Fact(str, "precision of the weights", default="fp16"),
    "recomputes": Fact(bool, "whether activations are recomputed"),
    "seq_len": Fact(int, "tokens of a sequence"),
    "sequence_parallelism_mode": Fact(str, "how the sequence is divided"),
    "sp_size": Fact(int, "ranks that divide a sequence", default=1, field="context_parallel"),
    "tp_size": Fact(int, "ranks that divide a layer", default=1, field="tensor_parallel"),
    "turned_to_zero_1": Fact(str, "the argument by which the plugin with experts chooses ZeRO 1", "zero_stage"),
    "zero_stage": Fact(int, "stage of ZeRO", default=0, least=0),
}
_OF_GEMINI = {
    "calls_refused": Fact(str, "a method that is called and not there", "no_sync"),
    "extra_dp_size": Fact(int, "groups that each hold all states", default=1),
    "fraction": Fact(float, "a share that is none", "shard_param_frac"),
    "fraction_key": Fact(str, "the argument that gives it"),
    "gpu_margin_mem_ratio": Fact(float, "share of the room left that takes states", default=0.0),
    "max_norm": Fact(float, "norm to which gradients are clipped", default=0.0),
    "needs_tp": Fact(str, "an option that needs tensor parallelism", "enable_flash_attention"),
    "norm_type": Fact(float, "order of that norm", default=2.0),
    "offload_optim_frac": Fact(float, "share of the states on the host", default=0.0),
    "offload_param_frac": Fact(float, "share of the weights on the host", default=0.0),
    "placement_policy": Fact(str, "who decides where chunks are", default="static"),
    "precision": Fact(str, "precision of the weights", default="fp16"),
    "shard_param_frac": Fact(float, "share of the weights that is divided", default=1.0),
    "tp_size": Fact(int, "ranks that divide a layer", default=1, field="tensor_parallel"),
}
_OF_LOW_LEVEL_ZERO = {
    "extra_dp_size": Fact(int, "groups that each hold all states", default=1),
    "fp8_communication": Fact(bool, "whether gradients travel in fp8", default=False),
    "norm_type": Fact(float, "order of the norm that clips gradients", default=2.0),
    "precision": Fact(str, "precision of the weights", default="fp16"),
    "stage": Fact(int, "stage of ZeRO", default=1, least=0, field="zero_stage"),
}
_OF_DDP = {"mixed_precision": Fact(str, "kind of mixed precision that Booster is given")}

FACTS: dict[str, dict[str, Fact]] = {
    HYBRID: _SHARED | _OF_HYBRID,
    GEMINI: _SHARED | _OF_GEMINI,
    LOW_LEVEL_ZERO: _SHARED | _OF_LOW_LEVEL_ZERO,
    DDP: _SHARED | _OF_DDP,
}

DIALECTS = {
    name: Dialect(
        name=name,
        framework=f"Colossal-AI {name}",
        stack="colossalai",
        facts=facts,
        words={
            "tensor_parallel": "tp_size",
            "pipeline_parallel": "pp_size",
            "num_microbatches": "num_microbatches",
            "micro_batch": "microbatch_size",
            "schedule": "pp_style",
            "layers_per_stage": "num_layers_per_stage",
            "sequence_parallel": "enable_sequence_parallelism",
            "offload.optimizer": "cpu_offload",
        },
        replaced=("DEV001", "ZER001", "ZER002", "SP001", "PP002", "PP003", "PP010", "RC004"),
    )
    for name, facts in FACTS.items()
}
