"""Files of other frameworks, which are named and refused."""

FOREIGN: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("axolotl", (("base_model",), ("datasets", "adapter", "sequence_len", "micro_batch_size", "num_epochs"))),
    (
        "LLaMA-Factory",
        (("model_name_or_path",), ("finetuning_type", "template", "stage", "infer_backend", "export_dir")),
    ),
    (
        "Hugging Face transformers (a model's config.json)",
        (("architectures", "model_type"), ("hidden_size", "n_embd", "d_model", "vocab_size")),
    ),
    ("Hugging Face transformers (TrainingArguments)", (("per_device_train_batch_size",),)),
    ("trlX", (("method.name", "method"), ("train.total_steps", "train.batch_size"))),
    ("LLM Foundry", (("max_duration",), ("fsdp_config", "device_train_microbatch_size", "global_train_batch_size"))),
    ("torchtune", (("model._component_", "tokenizer._component_", "optimizer._component_"),)),
    ("FlagScale with unlike devices", (("system.hetero.enable_hetero", "hetero.enable_hetero"),)),
    ("NeMo's recipes", (("strategy.tensor_model_parallel_size",), ("trainer", "data.train_ds"))),
    ("verl", (("actor_rollout_ref", "actor_rollout_ref.actor", "megatron.use_dist_checkpointing"),)),
)
"""Other frameworks' files, which are named and not judged: one key of each of these shows them."""
