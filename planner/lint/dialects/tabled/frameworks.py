"""The tables: which key of a framework's files sets what, read off the sources that each names.

A key that is not in a table is not judged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.lint.draft import Dialect, Fact

NEOX, TORCHTITAN, ACCELERATE, NANOTRON, NEMO = "gpt-neox", "torchtitan", "accelerate", "nanotron", "nemo"
TABLED = (NEOX, TORCHTITAN, ACCELERATE, NANOTRON, NEMO)

FACTS = {
    "accumulation": Fact(int, "micro batches of a step that the file names"),
    "batch_unit": Fact(int, "what a local batch has to divide by"),
    "chunk_layers": Fact(int, "layers of a chunk that the file names"),
    "context_parallel": Fact(int, "ranks that divide a sequence", default=1),
    "data_parallel": Fact(int, "what is left of the GPUs"),
    "given_parallel": Fact(int, "data parallelism that the file names"),
    "global_batch": Fact(int, "sequences of a step"),
    "gpus_told": Fact(int, "processes that the file names"),
    "hidden_size": Fact(int, "hidden size"),
    "kv_heads": Fact(int, "heads of keys and values"),
    "layers": Fact(int, "layers of the model"),
    "layers_each": Fact(int, "layers of a chunk, with those that the ends count as", least=0),
    "less_layers": Fact(int, "layers that an end of the pipeline counts as", least=0),
    "local_batch": Fact(int, "sequences that a rank loads"),
    "max_seq_len": Fact(int, "positions that the model has"),
    "micro_batch": Fact(int, "sequences of a micro batch"),
    "missing_key": Fact(str, "a key without a default that the file lacks"),
    "num_devices": Fact(int, "GPUs"),
    "num_heads": Fact(int, "attention heads"),
    "one_chunk": Fact(bool, "whether the schedule has one chunk of layers on a stage"),
    "other_precision": Fact(str, "what a switch of DeepSpeed says of the precision"),
    "pipeline_parallel": Fact(int, "stages", default=1),
    "precision": Fact(str, "precision that the file names"),
    "seq_len": Fact(int, "tokens of a sequence"),
    "staged": Fact(bool, "whether the model is built as a pipeline, be it of one stage"),
    "tensor_parallel": Fact(int, "ranks that divide a layer", default=1),
    "virtual_stages": Fact(int, "chunks of all stages"),
    "zero_stage": Fact(int, "stage of ZeRO", default=0, least=0),
}
_REPLACED = ("DEV001", "BAT001", "PP002", "PP003", "PP004", "PP005", "PP006", "PP010", "PP011")


@dataclass(frozen=True, kw_only=True)
class Table:
    """What a framework's files say, by key; of several keys the first that a file has counts."""

    dialect: Dialect
    source: str
    """Where the keys were read."""
    all_of: tuple[tuple[str, ...], ...]
    """A file is of this framework if it has one key of each of these."""
    counts: Mapping[str, tuple[str, ...]]
    """Whole numbers: degrees, batches, sizes of the model."""
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """``recompute``, ``sequence_parallel``, ``sharded`` (optimizer states over data parallelism)."""
    choices: Mapping[str, tuple[str, Mapping[Any, Any]]] = field(default_factory=dict)
    """Layout field to a key and what its values mean; another value leaves the field open."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    """Values of degrees that stand for what is left of the GPUs."""
    tying: tuple[str, bool] = ("", True)
    """A flag about tied embeddings, and its value where they are tied."""
    is_llama: bool = False
    """Whether its models have Llama's parts."""
    unmodelled: tuple[str, ...] = ()
    """Keys of parts that are not read, so that nothing is predicted where they ask for another one than GPT-2's."""
    has_deepspeed: bool = False
    """Whether DeepSpeed's keys of precision are there."""
    required: tuple[str, ...] = ()
    """Keys without a default; where none of those of a table is there, another file brings them."""
    others: str = ""
    """Last names of further keys, so that one that is nearly called so is told, and they for no other one."""


def _dialect(name: str, framework: str, stack: str, words: dict[str, str]) -> Dialect:
    return Dialect(
        name=name,
        framework=framework,
        stack=stack,
        facts=FACTS,
        words=words,
        replaced=_REPLACED,
        warns=("runtime", "library"),
    )


_PRECISIONS = {"fp16": "fp16", "bf16": "bf16", "fp32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
_LIGHTNING: dict[Any, str] = {
    "bf16-mixed": "bf16",
    "16-mixed": "fp16",
    16: "fp16",
    32: "fp32",
    "16": "fp16",
    "32": "fp32",
}
_MEGATRON_SIZES = {
    "num_layers": ("num_layers",),
    "hidden_size": ("hidden_size",),
    "num_heads": ("num_attention_heads",),
}

TABLES = (
    Table(
        dialect=_dialect(
            NEOX,
            "GPT-NeoX configuration",
            "megatron-deepspeed",
            {
                "tensor_parallel": "model_parallel_size",
                "pipeline_parallel": "pipe_parallel_size",
                "micro_batch": "train_micro_batch_size_per_gpu",
                "num_microbatches": "gradient_accumulation_steps",
                "zero_stage": "zero_optimization.stage",
            },
        ),
        source="GPT-NeoX: megatron/neox_arguments/arguments.py, calculate_derived and check_batch_parameters",
        all_of=(
            ("pipe_parallel_size", "model_parallel_size"),
            ("num_layers", "train_micro_batch_size_per_gpu", "train_batch_size", "rotary_pct", "pos_emb"),
        ),
        counts={
            "tensor_parallel": ("model_parallel_size",),
            "pipeline_parallel": ("pipe_parallel_size",),
            "micro_batch": ("train_micro_batch_size_per_gpu",),
            "accumulation": ("gradient_accumulation_steps",),
            "global_batch": ("train_batch_size",),
            "seq_len": ("seq_length",),
            "max_seq_len": ("max_position_embeddings",),
            "zero_stage": ("zero_optimization.stage",),
            "kv_heads": ("num_kv_heads",),
            **_MEGATRON_SIZES,
        },
        flags={"recompute": ("checkpoint_activations",), "sequence_parallel": ("sequence_parallel",)},
        choices={"precision": ("precision", _PRECISIONS)},
        defaults={"vocab_size": 50257},
        tying=("no_weight_tying", False),
        unmodelled=("num_kv_heads", "mlp_type", "activation", "norm", "moe_num_experts"),
        has_deepspeed=True,
        required=("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings"),
    ),
    Table(
        dialect=_dialect(
            TORCHTITAN,
            "torchtitan configuration",
            "torchtitan",
            {
                "tensor_parallel": "parallelism.tensor_parallel_degree",
                "pipeline_parallel": "parallelism.pipeline_parallel_degree",
                "micro_batch": "training.local_batch_size",
                "num_microbatches": "training.global_batch_size",
            },
        ),
        source="torchtitan: torchtitan/config/job_config.py and distributed/parallel_dims.py, _validate",
        all_of=(
            ("model.name", "model.flavor"),
            ("training.seq_len", "training.steps", "training.local_batch_size", "training.batch_size"),
        ),
        counts={
            "tensor_parallel": ("parallelism.tensor_parallel_degree", "training.tensor_parallel_degree"),
            "pipeline_parallel": ("parallelism.pipeline_parallel_degree", "experimental.pipeline_parallel_degree"),
            "context_parallel": ("parallelism.context_parallel_degree", "experimental.context_parallel_degree"),
            "shard": (
                "parallelism.data_parallel_shard_degree",
                "training.data_parallel_shard_degree",
                "training.data_parallel_degree",
            ),
            "replicate": ("parallelism.data_parallel_replicate_degree", "training.data_parallel_replicate_degree"),
            "local_batch": ("training.local_batch_size", "training.batch_size"),
            "micro_batch": ("parallelism.pipeline_parallel_microbatch_size",),
            "pieces": ("experimental.pipeline_parallel_microbatches",),
            "layers_per_chunk": ("parallelism.pipeline_parallel_layers_per_stage",),
            "less_first": ("parallelism.pipeline_parallel_first_stage_less_layers",),
            "less_last": ("parallelism.pipeline_parallel_last_stage_less_layers",),
            "global_batch": ("training.global_batch_size",),
            "seq_len": ("training.seq_len",),
        },
        choices={
            "recompute": ("activation_checkpoint.mode", {"none": False, "full": True}),
            "precision": ("training.mixed_precision_param", _PRECISIONS),
        },
        defaults={"zero_stage": 3, "precision": "bf16", "local_batch": 8, "seq_len": 2048, "sequence_parallel": True},
        ignored=("-1",),
        others="expert_parallel_degree expert_tensor_parallel_degree dataset dataset_path enable_cpu_offload "
        "fsdp_reshard_after_forward pipeline_parallel_schedule pipeline_parallel_schedule_csv",
    ),
    Table(
        dialect=_dialect(
            ACCELERATE,
            "accelerate configuration",
            "fsdp",
            {
                "tensor_parallel": "megatron_lm_config.megatron_lm_tp_degree",
                "pipeline_parallel": "megatron_lm_config.megatron_lm_pp_degree",
                "num_microbatches": "megatron_lm_config.megatron_lm_num_micro_batches",
                "zero_stage": "deepspeed_config.zero_stage",
            },
        ),
        source="accelerate: src/accelerate/utils/dataclasses.py, MegatronLMPlugin, DeepSpeedPlugin, "
        "FullyShardedDataParallelPlugin and parallelism_config.py",
        all_of=(("distributed_type", "compute_environment"), ("num_processes", "mixed_precision", "num_machines")),
        counts={
            "tensor_parallel": (
                "megatron_lm_config.megatron_lm_tp_degree",
                "parallelism_config.parallelism_config_tp_size",
            ),
            "pipeline_parallel": ("megatron_lm_config.megatron_lm_pp_degree",),
            "context_parallel": ("parallelism_config.parallelism_config_cp_size",),
            "ulysses": ("parallelism_config.parallelism_config_sp_size",),
            "shard": ("parallelism_config.parallelism_config_dp_shard_size",),
            "replicate": ("parallelism_config.parallelism_config_dp_replicate_size",),
            "accumulation": (
                "megatron_lm_config.megatron_lm_num_micro_batches",
                "deepspeed_config.gradient_accumulation_steps",
            ),
            "zero_stage": ("deepspeed_config.zero_stage",),
            "gpus_told": ("num_processes",),
        },
        flags={
            "sequence_parallel": ("megatron_lm_config.megatron_lm_sequence_parallelism",),
            "recompute": (
                "megatron_lm_config.megatron_lm_recompute_activations",
                "fsdp_config.fsdp_activation_checkpointing",
            ),
            "sharded": ("megatron_lm_config.megatron_lm_use_distributed_optimizer",),
        },
        choices={
            "precision": ("mixed_precision", {**_PRECISIONS, "no": "fp32"}),
            "zero_stage": (
                "fsdp_config.fsdp_sharding_strategy",
                {"FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0, 1: 3, 2: 2, 3: 0},
            ),
            "reshard": (
                "fsdp_config.fsdp_reshard_after_forward",
                {True: 3, False: 2, "FULL_SHARD": 3, "SHARD_GRAD_OP": 2, "NO_SHARD": 0},
            ),
            "offload_all": ("fsdp_config.fsdp_offload_params", {True: 1.0, False: 0.0}),
            "offload.optimizer": ("deepspeed_config.offload_optimizer_device", {"none": 0.0, "cpu": 1.0}),
            "offload.parameters": ("deepspeed_config.offload_param_device", {"none": 0.0, "cpu": 1.0}),
        },
    ),
    Table(
        dialect=_dialect(
            NANOTRON,
            "nanotron configuration",
            "nanotron",
            {
                "tensor_parallel": "parallelism.tp",
                "pipeline_parallel": "parallelism.pp",
                "micro_batch": "tokens.micro_batch_size",
                "num_microbatches": "tokens.batch_accumulation_per_replica",
                "zero_stage": "optimizer.zero_stage",
            },
        ),
        source="nanotron: src/nanotron/config/parallelism_config.py and config.py",
        all_of=(
            ("parallelism.tp", "parallelism.pp"),
            ("parallelism.dp", "parallelism.pp"),
            ("parallelism.tp", "parallelism.dp"),
            ("tokens", "model.model_config", "parallelism.tp_mode", "parallelism.pp_engine", "optimizer.zero_stage"),
        ),
        counts={
            "tensor_parallel": ("parallelism.tp",),
            "pipeline_parallel": ("parallelism.pp",),
            "context_parallel": ("parallelism.context_parallel_size",),
            "given_parallel": ("parallelism.dp",),
            "micro_batch": ("tokens.micro_batch_size",),
            "accumulation": ("tokens.batch_accumulation_per_replica",),
            "seq_len": ("tokens.sequence_length",),
            "zero_stage": ("optimizer.zero_stage",),
            "num_layers": ("model.model_config.num_hidden_layers",),
            "hidden_size": ("model.model_config.hidden_size",),
            "num_heads": ("model.model_config.num_attention_heads",),
            "kv_heads": ("model.model_config.num_key_value_heads",),
            "ffn_hidden_size": ("model.model_config.intermediate_size",),
            "vocab_size": ("model.model_config.vocab_size",),
            "max_seq_len": ("model.model_config.max_position_embeddings",),
        },
        flags={"recompute": ("parallelism.recompute_layer",)},
        tying=("model.model_config.tie_word_embeddings", True),
        is_llama=True,
        required=(
            *("parallelism.dp", "parallelism.tp", "parallelism.pp", "tokens.sequence_length"),
            *("tokens.micro_batch_size", "tokens.batch_accumulation_per_replica"),
        ),
        choices={
            "precision": ("model.dtype", _PRECISIONS),
            "sequence_parallel": (
                "parallelism.tp_mode",
                {"REDUCE_SCATTER": True, "ALL_REDUCE": False, "reduce_scatter": True, "all_reduce": False},
            ),
        },
    ),
    Table(
        dialect=_dialect(
            NEMO,
            "NeMo configuration",
            "megatron",
            {
                "tensor_parallel": "model.tensor_model_parallel_size",
                "pipeline_parallel": "model.pipeline_model_parallel_size",
                "micro_batch": "model.micro_batch_size",
                "num_microbatches": "model.global_batch_size",
            },
        ),
        source="NeMo: collections/nlp/parts/nlp_overrides.py and megatron_base_model.py; Megatron-Bridge: "
        "src/megatron/bridge/training/config.py, ConfigContainer.validate",
        all_of=(
            ("model.tensor_model_parallel_size", "model.pipeline_model_parallel_size"),
            ("model.micro_batch_size", "train.micro_batch_size", "trainer.devices", "trainer.precision"),
        ),
        counts={
            "tensor_parallel": ("model.tensor_model_parallel_size",),
            "pipeline_parallel": ("model.pipeline_model_parallel_size",),
            "context_parallel": ("model.context_parallel_size",),
            "micro_batch": ("model.micro_batch_size", "train.micro_batch_size"),
            "global_batch": ("model.global_batch_size", "train.global_batch_size"),
            "seq_len": ("model.encoder_seq_length", "model.seq_length", "dataset.sequence_length"),
            "max_seq_len": ("model.max_position_embeddings",),
            "nodes": ("trainer.num_nodes",),
            "per_node": ("trainer.devices",),
            "virtual": ("model.virtual_pipeline_model_parallel_size",),
            **{name: tuple(f"model.{key}" for key in keys) for name, keys in _MEGATRON_SIZES.items()},
            "ffn_hidden_size": ("model.ffn_hidden_size",),
            "kv_heads": ("model.num_query_groups",),
        },
        flags={"sequence_parallel": ("model.sequence_parallel",)},
        required=("model.num_layers", "model.hidden_size", "model.num_attention_heads"),
        tying=("model.share_embeddings_and_output_weights", True),
        unmodelled=("model.num_query_groups", "model.activation", "model.num_moe_experts", "model.normalization"),
        choices={
            "precision": ("trainer.precision", _PRECISIONS | _LIGHTNING),
            "recompute": ("model.activations_checkpoint_granularity", {None: False, "full": True}),
            "zero_stage": (
                "model.optim.name",
                {"distributed_fused_adam": 1, "mcore_distributed_optim": 1, "fused_adam": 0, "adamw": 0, "adam": 0},
            ),
        },
        defaults={"vocab_size": 50257},
        others="add_position_embedding num_cross_attention_heads",
    ),
)

OF_GPT2 = (None, False, 0, 1, "gelu", "fast-gelu", "openai-gelu", "layernorm", "layernorm1p", "regular")
"""Values of keys of parts that stand for GPT-2's, or for one that costs the same."""
