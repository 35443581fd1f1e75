"""Rules of Colossal-AI's configuration files of 2022: BATCH_SIZE, TENSOR_PARALLEL, MODE, zero, fp16."""

from planner.layouts.degrees import micro_batches
from planner.lint.config_rule import rules_of
from planner.lint.dialects.colossalai_2022.keys import DIALECT

_INITIALIZE = "colossalai 0.5.0: legacy/initialize.py"
_EXAMPLE = "ColossalAI-Examples, language/gpt"
_rule = rules_of(DIALECT.facts, DIALECT.name)


def _naive(mode: str) -> str:
    """The naive mode in the way the file names a mode: ``AMP_TYPE.NAIVE`` or ``naive``."""
    prefix, dot, _ = mode.rpartition(".")
    return f"{prefix}{dot}NAIVE" if dot or mode.isupper() else "naive"


RULES = (
    _rule("OLD001", "BATCH_SIZE is not a whole number of micro batches", about=("degrees",))(
        message="BATCH_SIZE {batch_size} does not divide by NUM_MICRO_BATCHES {num_micro_batches}",
        detail="{batch_size} % {num_micro_batches} = {rest}",
        hint="use a BATCH_SIZE that is a multiple of {num_micro_batches}",
        values=lambda batch_size, num_micro_batches: {"rest": batch_size % num_micro_batches},
        why="Every micro batch of the pipeline has the same number of sequences.",
        source=f"{_EXAMPLE}, README: BATCH_SIZE / NUM_MICRO_BATCHES is an integer",
        holds=lambda batch_size, num_micro_batches: batch_size % num_micro_batches == 0,
    ),
    _rule("OLD002", "TENSOR_SHAPE is not what the stages send to each other")(
        message="TENSOR_SHAPE is {found}, and the stages send {expected}",
        detail="({batch_size} / {num_micro_batches}{divided}, {seq_len}, {hidden_size}{divided}) = {expected}",
        hint="use TENSOR_SHAPE = {expected}",
        values=lambda expected_shape, tensor_shape: {"expected": str(expected_shape), "found": str(tensor_shape)},
        repaired=lambda expected_shape: expected_shape,
        why="The receiving stage allocates this shape before anything arrives; the 2D and 2.5D grids split micro "
        "batch and hidden size by their edge.",
        source=f"{_EXAMPLE}, gpt3_configs; colossalai 0.5.0: legacy/engine/schedule/_pipeline_schedule.py:20",
        holds=lambda tensor_shape, expected_shape, pipeline: (
            pipeline == 1 or tuple(tensor_shape) == tuple(expected_shape)
        ),
    ),
    _rule("OLD003", "a pipeline without NUM_MICRO_BATCHES")(
        field="NUM_MICRO_BATCHES",
        message="a pipeline of {pipeline} stages needs NUM_MICRO_BATCHES, and the file has none",
        detail="pipeline = {pipeline}",
        hint="add NUM_MICRO_BATCHES = {wanted}",
        values=lambda pipeline, batch_size=None: {"wanted": micro_batches(pipeline, batch_size)},
        added=lambda pipeline, batch_size=None: {"NUM_MICRO_BATCHES": micro_batches(pipeline, batch_size)},
        why="The schedule has to know into how many micro batches it cuts the batch.",
        source=f"{_EXAMPLE}, train_gpt.py reads gpc.config.NUM_MICRO_BATCHES",
        holds=lambda pipeline, has_micro_batches: pipeline == 1 or has_micro_batches,
    ),
    _rule("OLD004", "data parallelism written by hand", remedy="remove", severity="warning")(
        message="{data_parallel_key} is set by hand, and data parallelism is never written",
        detail="DP = GPUs / (TP x PP) = {num_devices} / ({tensor_parallel} x {pipeline}) = {data_parallel}",
        hint="remove {data_parallel_key}; Colossal-AI sets it",
        why="Data parallelism is what is left of the GPUs; a second value can only contradict it.",
        source=f"{_EXAMPLE}, README: DP is set automatically",
        holds=lambda data_parallel_by_hand, data_parallel_key: False,
    ),
    _rule("OLD005", "fp16 and zero in one file", remedy="remove")(
        message="fp16 and zero are both set, and only one of them may be",
        detail="zero level {zero_level} brings mixed precision of its own",
        hint="remove fp16",
        why="Colossal-AI stops at the start: ZeRO has its own mixed precision.",
        source=f"{_INITIALIZE}:336",
        holds=lambda fp16, zero_level: not fp16 or zero_level == 0,
    ),
    _rule("OLD006", "a pipeline with another mixed precision than naive")(
        message="a pipeline takes AMP_TYPE.NAIVE only, and fp16 mode is {fp16_mode}",
        detail="pipeline = {pipeline}, mode = {fp16_mode}",
        hint="use mode = AMP_TYPE.NAIVE",
        repaired=lambda fp16_mode: _naive(str(fp16_mode)),
        why="The pipeline schedule casts and scales by itself, which only the naive mode leaves to it.",
        source=f"{_INITIALIZE}:350",
        holds=lambda fp16_mode, pipeline: pipeline == 1 or "NAIVE" in str(fp16_mode).upper(),
    ),
    _rule("OLD007", "HIDDEN_SIZE is not the model's")(
        message="HIDDEN_SIZE is {hidden_size}, and {model} has {model_hidden_size}",
        detail="{hidden_size} != {model_hidden_size}",
        hint="use HIDDEN_SIZE = {model_hidden_size}",
        repaired=lambda model_hidden_size: model_hidden_size,
        why="TENSOR_SHAPE is made from it, so the stages would disagree about what they send.",
        source=f"{_EXAMPLE}, README: HIDDEN_SIZE is related to the model",
        holds=lambda hidden_size, model_hidden_size: hidden_size == model_hidden_size,
    ),
    _rule("OLD008", "a constant that parallel does not use")(
        message="{unused_key} is {unused_constant}, and {used_key} is {used_value}",
        detail="{unused_constant} != {used_value}; Colossal-AI reads {used_key} only",
        hint="write {used_key} = {unused_key}, or remove {unused_key}",
        repaired=lambda used_value: used_value,
        why="Colossal-AI reads the parallel dict alone; a constant beside it that says something else is a mistake.",
        source="colossalai 0.5.0: legacy/context/parallel_context.py:416",
        holds=lambda unused_constant, unused_key, used_key, used_value: unused_constant == used_value,
    ),
)
