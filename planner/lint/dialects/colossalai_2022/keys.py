"""What Colossal-AI's configuration files of 2022 are made of."""

from planner.lint.dialects.nvme import NVME_FACTS, OLD
from planner.lint.draft import Dialect, Fact

MARKS = ("parallel", "TENSOR_PARALLEL", "NUM_MICRO_BATCHES", "BATCH_SIZE", "TENSOR_SHAPE", "PIPELINE", "zero", "fp16")
"""Keys of which two show such a file."""
OWN = ("parallel", "TENSOR_PARALLEL", "NUM_MICRO_BATCHES", "TENSOR_SHAPE")
"""Keys of which one does."""
BATCH = ("BATCH_SIZE", "hyperparameter.batch_size")
"""Keys of what a data-parallel rank loads."""
MODES = (None, "1d", "2d", "2.5d", "3d", "sequence")
SECTIONS: dict[str, tuple[float, frozenset[str]]] = {
    "": (
        0.88,
        frozenset(
            [
                "BATCH_SIZE",
                "SEQ_LEN",
                "SEQ_LENGTH",
                "NUM_MICRO_BATCHES",
                "HIDDEN_SIZE",
                "TENSOR_SHAPE",
                "TENSOR_PARALLEL",
                "PIPELINE",
                "MODE",
                "parallel",
                "zero",
                "fp16",
                "model",
                "optimizer",
                "gradient_accumulation",
            ]
        ),
    ),
    "hyperparameter": (0.85, frozenset(("batch_size", "num_epochs", "steps_per_epoch"))),
    "parallel": (0.85, frozenset(("tensor", "pipeline", "data", "data_parallel", "dp"))),
    "parallel.tensor": (0.7, frozenset(("size", "mode", "depth"))),
    "zero.model_config": (
        0.85,
        frozenset(
            [
                "shard_strategy",
                "reduce_scatter_bucket_size_mb",
                "fp32_reduce_scatter",
                "tensor_placement_policy",
                "offload_config",
                "gradient_predivide_factor",
                "reuse_fp16_shard",
            ]
        ),
    ),
    "zero": (
        0.9,
        frozenset(
            [
                "model_config",
                "optimizer_config",
                "level",
                "stage",
                "offload_optimizer_config",
                "offload_param_config",
                "cpu_offload",
                "initial_scale",
                "overlap_communication",
                "partition_grad",
                "verbose",
            ]
        ),
    ),
}
"""Table to how alike a key has to be to one that is read, and these."""
BY_HAND = (
    *("DATA_PARALLEL", "DATA_PARALLEL_SIZE", "DP", "DP_SIZE", "DATA"),
    *("parallel.data", "parallel.data_parallel", "parallel.dp"),
)
"""Keys under which data parallelism is written, though nothing reads them."""

FACTS = NVME_FACTS | {
    "batch_size": Fact(int, "sequences that a data-parallel rank loads", "BATCH_SIZE"),
    "data_parallel": Fact(int, "what is left of the GPUs"),
    "data_parallel_by_hand": Fact(bool, "whether data parallelism is written", "DATA_PARALLEL"),
    "data_parallel_key": Fact(str, "the key that writes it"),
    "divided": Fact(str, "division by the edge of the grid in words"),
    "expected_shape": Fact(tuple, "what the stages send: micro batch, sequence and hidden size"),
    "fp16": Fact(bool, "whether mixed precision is asked for"),
    "fp16_mode": Fact(str, "kind of mixed precision", "fp16.mode"),
    "has_micro_batches": Fact(bool, "whether the number of micro batches is given"),
    "hidden_size": Fact(int, "hidden size of the file", "HIDDEN_SIZE"),
    "model": Fact(str, "name of the model"),
    "model_hidden_size": Fact(int, "hidden size of the model"),
    "num_devices": Fact(int, "GPUs"),
    "num_micro_batches": Fact(int, "pieces that the batch is cut into", "NUM_MICRO_BATCHES"),
    "pipeline": Fact(int, "stages"),
    "seq_len": Fact(int, "tokens of a sequence", "SEQ_LEN"),
    "tensor_parallel": Fact(int, "ranks that divide a layer"),
    "tensor_shape": Fact(tuple, "shape that a stage allocates for what it receives", "TENSOR_SHAPE"),
    "unused_constant": Fact((int, str), "value of a constant that repeats an entry of parallel", "PIPELINE"),
    "unused_key": Fact(str, "that constant"),
    "used_key": Fact(str, "the entry"),
    "used_value": Fact((int, str), "its value"),
    "zero_level": Fact(int, "stage of ZeRO"),
}

DIALECT = Dialect(
    name=OLD,
    framework="Colossal-AI configuration",
    stack="colossalai",
    facts=FACTS,
    words={
        "tensor_parallel": "TENSOR_PARALLEL",
        "pipeline_parallel": "PIPELINE",
        "tensor_mode": "MODE",
        "tensor_depth": "DEPTH",
        "micro_batch": "BATCH_SIZE",
        "num_microbatches": "NUM_MICRO_BATCHES",
        "seq_len": "SEQ_LEN",
        "zero_stage": "zero.level",
    },
    warns=("runtime", "library", "fill"),
    additions={"tensor_mode": {"parallel.tensor.mode": "1d"}},
)
