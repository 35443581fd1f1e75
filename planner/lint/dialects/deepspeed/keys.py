"""What DeepSpeed's configuration is made of.

Keys read off its source at 38327e0 (February 2025, 0.16.5) and at edaa722 (August 2026).
"""

from planner.lint.dialects.nvme import DEEPSPEED, NVME_FACTS
from planner.lint.draft import Dialect, Fact

ZERO = "zero_optimization"
MARKS = (ZERO, "train_micro_batch_size_per_gpu")
"""Keys of which one shows such a file."""
MORE_MARKS = (
    *MARKS,
    "train_batch_size",
    "gradient_accumulation_steps",
    "fp16",
    "bf16",
    "optimizer",
    "zero_allow_untested_optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
    "gradient_clipping",
)
"""Keys of which two show one, the batch among them."""

_ZERO = """
    stage contiguous_gradients reduce_scatter reduce_bucket_size use_multi_rank_bucket_allreduce allgather_partitions
    allgather_bucket_size overlap_comm load_from_fp32_weights elastic_checkpoint offload_param offload_optimizer
    sub_group_size cpu_offload_param cpu_offload_params cpu_offload_use_pin_memory cpu_offload prefetch_bucket_size
    stage3_prefetch_bucket_size param_persistence_threshold stage3_param_persistence_threshold
    model_persistence_threshold stage3_model_persistence_threshold max_live_parameters stage3_max_live_parameters
    max_reuse_distance stage3_max_reuse_distance gather_16bit_weights_on_model_save
    stage3_gather_16bit_weights_on_model_save module_granularity_threshold stage3_module_granularity_threshold
    use_all_reduce_for_fetch_params stage3_use_all_reduce_for_fetch_params stage3_gather_fp16_weights_on_model_save
    ignore_unused_parameters legacy_stage1 round_robin_gradients zero_hpz_partition_size zero_quantized_weights
    zero_quantized_nontrainable_weights zero_quantized_gradients zeropp_loco_param mics_shard_size
    mics_hierarchical_params_gather memory_efficient_linear pipeline_loading_checkpoint override_module_apply
    log_trace_cache_warnings zenflow allgather_sequential stage3_allgather_sequential enable_sanity_checks
    save_muon_momentum_buffer_in_memory leaf_module
"""
_TOP = """
    train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps optimizer scheduler fp16 bf16 bfloat16
    amp gradient_clipping zero_optimization zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    steps_per_print wall_clock_breakdown dump_state activation_checkpointing sparse_attention aio data_types
    communication_data_type prescale_gradients gradient_predivide_factor sparse_gradients pipeline tensor_parallel
    flops_profiler autotuning elasticity checkpoint comms_logger tensorboard wandb csv_monitor compression_training
    data_efficiency curriculum_learning eigenvalue hybrid_engine progressive_layer_drop memory_breakdown model seq_len
    disable_allgather dataloader_drop_last grad_accum_dtype zero_quantized nebula timers compile seed
"""
_HALF = """
    enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis consecutive_hysteresis min_loss_scale
    fp16_master_weights_and_grads opt_level type
"""
_OFFLOAD = "device nvme_path buffer_count buffer_size pin_memory"
_TENSOR = """
    dtype autotp_size tp_overlap_comm tensor_parallel tp injection_policy_tuple partition_config preset_model
    keep_module_on_host replace_with_kernel_inject kernel_inject
"""
SECTIONS: dict[str, frozenset[str]] = {
    "": frozenset(_TOP.split()),
    "fp16": frozenset(_HALF.split()),
    "bf16": frozenset({"enabled", "immediate_grad_update"}),
    "tensor_parallel": frozenset(_TENSOR.split()),
    "zero_optimization": frozenset(_ZERO.split()),
    "zero_optimization.offload_param": frozenset(_OFFLOAD.split()) | {"max_in_cpu"},
    "zero_optimization.offload_optimizer": frozenset(_OFFLOAD.split())
    | {"pipeline_read", "pipeline_write", "fast_init", "ratio", "pipeline", "super_offload", "cpuadam_cores_perc"},
}
"""Section to all the keys that it takes, with those of older versions."""
LOOSE = ("", "fp16", "bf16")
"""Sections whose other keys DeepSpeed passes over."""

FACTS = NVME_FACTS | {
    "amp": Fact(bool, "whether Apex casts the model", "amp.enabled", default=False),
    "batch_unit": Fact(int, "what the batch has to be a multiple of"),
    "bf16": Fact(bool, "whether weights are in bf16"),
    "data_parallel": Fact(int, "what is left of the GPUs"),
    "fp16": Fact(bool, "whether weights are in fp16", "fp16.enabled"),
    "gradient_accumulation_steps": Fact(int, "micro batches of a step"),
    "half_master": Fact(bool, "master weights in half precision", "fp16.fp16_master_weights_and_grads", default=False),
    "has_batch": Fact(bool, "whether a batch size is given", "train_batch_size"),
    "num_devices": Fact(int, "GPUs"),
    "offload_ratio": Fact(float, "share of states offloaded", f"{ZERO}.offload_optimizer.ratio", default=1.0),
    "optimizer_device": Fact(str, "where the optimizer's states are"),
    "optimizer_type": Fact(str, "name of the optimizer", "optimizer.type"),
    "parameter_device": Fact(str, "where the weights are"),
    "pipeline_stages": Fact(int, "stages"),
    "tensor_parallel": Fact(int, "ranks that divide a layer", "tensor_parallel.autotp_size"),
    "train_batch": Fact(int, "sequences of a step", "train_batch_size"),
    "train_micro_batch": Fact(int, "sequences of a micro batch"),
    "unit_words": Fact(str, "what makes batch_unit, in words"),
    "untested_allowed": Fact(bool, "whether any optimizer may be taken"),
    "zero_stage": Fact(int, "stage of ZeRO", f"{ZERO}.stage"),
}

DIALECT = Dialect(
    name=DEEPSPEED,
    framework="DeepSpeed configuration",
    stack="megatron-deepspeed",
    facts=FACTS,
    words={
        "tensor_parallel": "tensor_parallel.autotp_size",
        "zero_stage": f"{ZERO}.stage",
        "micro_batch": "train_micro_batch_size_per_gpu",
        "num_microbatches": "gradient_accumulation_steps",
        "offload.optimizer": f"{ZERO}.offload_optimizer.device",
        "offload.parameters": f"{ZERO}.offload_param.device",
        "precision": "bf16.enabled",
    },
    replaced=("DEV001", "BAT001", "PP002", "PP003", "PP004", "PP005", "PP006", "PP010", "PP011"),
    warns=("runtime", "library"),
)
