"""What Megatron-LM's arguments are made of."""

from dataclasses import replace

from planner.lint.draft import Dialect, Fact

MARKS = (
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--micro-batch-size",
    "--num-layers",
    "--num-attention-heads",
    "--use-distributed-optimizer",
    "--context-parallel-size",
)
"""Options of which several show such a file."""
OWN = (*MARKS[:2], *MARKS[-2:], "--model-parallel-size", "--recompute-granularity")
"""Options of which one does."""
OBSOLETE = {
    "--checkpoint-activations": "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
    "--batch-size": "--micro-batch-size",
    "--warmup": "--lr-warmup-fraction",
    "--model-parallel-size": "--tensor-model-parallel-size",
}
"""Options of the first versions, and what took their place."""
UNMODELLED = {
    "--num-experts": "experts",
    "--multi-latent-attention": "latent attention",
    "--hybrid-override-pattern": "layers with a state",
    "--hybrid-layer-pattern": "layers with a state",
    "--mtp-num-layers": "layers that predict further tokens",
    "--fp8-format": "products in fp8",
    "--fp4-format": "products in fp4",
}
"""Options of models that gptplan has no formulas for."""
OF_EXPERTS = ("--num-experts", "--multi-latent-attention")
"""Those of them that it has in models with experts, where all of their parts are known."""
PARTS = ("--group-query-attention", "--position-embedding-type", "--normalization", "--disable-bias-linear")
"""Options of the parts of a model; one that is misspelt leaves out that part."""
TRAINS = ("--train-iters", "--train-samples", "--global-batch-size")
"""Options of which one shows that a command trains."""
ELSEWHERE = (
    *("--use-checkpoint-args", "--yaml-cfg", "--batch-size", "--hybrid-override-pattern", "--hybrid-layer-pattern"),
    *("--encoder-num-layers", "--spec"),
)
"""Options that bring sizes from elsewhere, or by their old name."""
REQUIRED = {"--num-layers": ELSEWHERE, "--micro-batch-size": ("--yaml-cfg", "--batch-size")}
"""Options without a default, and those with which a command does without them."""
NO_TRAINING = (
    *("--analyzing-task", "--analyzing-metric", "--out-seq-length", "--sample-output-file", "--genfile"),
    *("--task-list", "--task_list", "--results-path", "--num-samples"),
)
"""Options of which one shows that a command generates or measures, so that it keeps no states of an optimizer."""
FROM_CHECKPOINT = (
    "--num-layers",
    "--hidden-size",
    "--num-attention-heads",
    "--seq-length",
    "--max-position-embeddings",
)
"""Sizes that a command that loads a checkpoint gives as -1."""
LIKE_OTHERS = (
    *("--decoder-last-pipeline-num-layers", "--tp-comm-overlap-rs", "--tp-comm-overlap-ag"),
    *("--checkpoint", "--optimizer", "--recompute", "--disable-bias-linear-fc"),
)
"""Options that are not judged and are nearly called like one that is, or like its beginning."""
LAUNCHER = ("--nproc_per_node", "--nproc-per-node", "--deepspeed_config")
"""Options that take underscores."""
LEAST_MISSPELT = 10
"""Shorter names are too alike to tell a mistake from another option."""
JUDGED_OPTIONS = (
    "--distribute-saved-activations",
    "--optimizer-cpu-offload",
    "--overlap-param-gather",
    "--recompute-method",
    "--tp-comm-overlap",
    "--train-iters",
    "--use-torch-fsdp2",
)
"""Options that have rules of their own."""

FACTS = {
    "bf16": Fact(bool, "whether weights are in bf16"),
    "context_parallel": Fact(int, "ranks that divide a sequence", "--context-parallel-size", default=1),
    "counted": Fact(str, "what else counts as a layer, in words"),
    "data_parallel": Fact(int, "what is left of the GPUs"),
    "deepspeed_stage": Fact(int, "stage of ZeRO that DeepSpeed is given", "--zero-stage"),
    "ds_expert_parallel": Fact(int, "ranks that divide DeepSpeed's experts", "--moe-expert-parallel-size"),
    "ds_sequence_parallel": Fact(bool, "whether DeepSpeed divides the sequence", "--ds-sequence-parallel-size"),
    "no_pipeline": Fact(bool, "whether DeepSpeed's pipeline is switched off", "--no-pipeline-parallel"),
    "expert_parallel": Fact(int, "ranks that divide the experts", "--expert-model-parallel-size"),
    "expert_tensor_parallel": Fact(int, "ranks that divide a layer of an expert"),
    "fp16": Fact(bool, "whether weights are in fp16", "--fp16"),
    "global_batch": Fact(int, "sequences of a step", "--global-batch-size"),
    "half_option": Fact(str, "an option of half precision", "--fp32-residual-connection"),
    "has_experts": Fact(bool, "whether there are experts"),
    "hidden_size": Fact(int, "hidden size", "--hidden-size"),
    "launched": Fact(int, "processes that the script starts", "--nproc_per_node"),
    "max_connections": Fact(str, "what the script sets for it, or nothing", "CUDA_DEVICE_MAX_CONNECTIONS"),
    "micro_batch": Fact(int, "sequences of a micro batch"),
    "missing_option": Fact(str, "an option without a default that a command lacks", "--micro-batch-size"),
    "middle_layers": Fact(int, "layers that the first and the last stage leave"),
    "middle_stages": Fact(int, "stages between them"),
    "num_devices": Fact(int, "GPUs"),
    "num_experts": Fact(int, "experts", "--num-experts"),
    "num_heads": Fact(int, "attention heads", "--num-attention-heads"),
    "num_microbatches": Fact(int, "micro batches of a step", "--global-batch-size"),
    "num_query_groups": Fact(int, "groups of queries", "--num-query-groups"),
    "options": Fact(frozenset, "all options that are given"),
    "overlap_p2p": Fact(bool, "whether stages send while they compute"),
    "own_sharding": Fact(bool, "whether another sharded data parallelism is chosen"),
    "pipeline_parallel": Fact(int, "stages", "--pipeline-model-parallel-size", default=1),
    "recompute_granularity": Fact(str, "full or selective", "--recompute-granularity"),
    "second_virtual": Fact(str, "a second option for virtual stages", "--num-layers-per-virtual-pipeline-stage"),
    "selective_with": Fact(str, "an option that chooses layers", "--recompute-method"),
    "seq_len": Fact(int, "tokens of a sequence", "--seq-length"),
    "sequence_parallel": Fact(bool, "whether sequence parallelism is asked for", "--sequence-parallel"),
    "split_layers": Fact(int, "layers that are divided evenly over the stages"),
    "tensor_parallel": Fact(int, "ranks that divide a layer", "--tensor-model-parallel-size"),
    "uneven": Fact(int, "layers of the first or the last stage", "--decoder-first-pipeline-num-layers"),
    "uneven_key": Fact(str, "the option that sets them"),
    "virtual_key": Fact(str, "the option that sets virtual stages"),
    "virtual_size": Fact(int, "virtual stages of a rank"),
    "virtual_stage": Fact(int, "value of the option", "--num-layers-per-virtual-pipeline-stage"),
    "vp_group": Fact(int, "micro batches that a virtual stage runs in turn"),
    **{option: Fact(bool, "whether this option is given") for option in JUDGED_OPTIONS},
}

DIALECT = Dialect(
    name="megatron",
    framework="Megatron-LM arguments",
    stack="megatron",
    facts=FACTS,
    words={
        "tensor_parallel": "--tensor-model-parallel-size",
        "pipeline_parallel": "--pipeline-model-parallel-size",
        "micro_batch": "--micro-batch-size",
        "num_microbatches": "--global-batch-size",
        "expert_parallel": "--expert-model-parallel-size",
        "seq_len": "--seq-length",
        "sequence_parallel": "--sequence-parallel",
        "num_model_chunks": "--num-virtual-stages-per-pipeline-rank",
        "zero_stage": "--use-distributed-optimizer",
        "recompute_layers_per_stage": "--recompute-granularity",
        "schedule": "--num-virtual-stages-per-pipeline-rank",
        "precision": "--bf16",
    },
    replaced=(
        *("DEV001", "BAT001", "ZER001", "ZER003", "TP002", "SP001", "SP004", "PP001", "PP002", "PP003", "PP004"),
        *("PP005", "PP006", "PP010", "PP011", "EP002", "EP003"),
    ),
    warns=("runtime", "library"),
)

WITH_DEEPSPEED = replace(DIALECT, stack="megatron-deepspeed")
"""The same arguments where DeepSpeed executes them."""
