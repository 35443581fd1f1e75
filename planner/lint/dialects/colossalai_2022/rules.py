"""Rules of Colossal-AI's configuration files of 2022: BATCH_SIZE, TENSOR_PARALLEL, MODE, zero, fp16."""

from typing import Any

from planner.layouts.degrees import micro_batches
from planner.lint.config_rule import ConfigRule, Facts

OLD = "colossalai-config"
_INITIALIZE = "colossalai 0.5.0: legacy/initialize.py"
_EXAMPLE = "ColossalAI-Examples, language/gpt"


def _rule(**fields: Any) -> ConfigRule:
    return ConfigRule(dialects=(OLD,), **fields)


def _naive(mode: str) -> str:
    """The naive mode in the way the file names a mode: ``AMP_TYPE.NAIVE`` or ``naive``."""
    prefix, dot, _ = mode.rpartition(".")
    return f"{prefix}{dot}NAIVE" if dot or mode.isupper() else "naive"


def _shape(facts: Facts) -> dict[str, Any]:
    return {"expected": str(facts["expected_shape"]), "found": str(facts["tensor_shape"])}


RULES = (
    _rule(
        id="OLD001",
        about=("degrees",),
        title="BATCH_SIZE is not a whole number of micro batches",
        field="BATCH_SIZE",
        fact="batch_size",
        needs=("batch_size", "num_micro_batches"),
        message="BATCH_SIZE {batch_size} does not divide by NUM_MICRO_BATCHES {num_micro_batches}",
        detail="{batch_size} % {num_micro_batches} = {rest}",
        hint="use a BATCH_SIZE that is a multiple of {num_micro_batches}",
        values=lambda f: {"rest": f["batch_size"] % f["num_micro_batches"]},
        why="Every micro batch of the pipeline has the same number of sequences.",
        source=f"{_EXAMPLE}, README: BATCH_SIZE / NUM_MICRO_BATCHES is an integer",
        holds=lambda f: f["batch_size"] % f["num_micro_batches"] == 0,
    ),
    _rule(
        id="OLD002",
        title="TENSOR_SHAPE is not what the stages send to each other",
        field="TENSOR_SHAPE",
        fact="tensor_shape",
        needs=("tensor_shape", "expected_shape", "pipeline"),
        message="TENSOR_SHAPE is {found}, and the stages send {expected}",
        detail="({batch_size} / {num_micro_batches}{divided}, {seq_len}, {hidden_size}{divided}) = {expected}",
        hint="use TENSOR_SHAPE = {expected}",
        values=_shape,
        repaired=lambda f: f["expected_shape"],
        why="The receiving stage allocates this shape before anything arrives; the 2D and 2.5D grids split micro "
        "batch and hidden size by their edge.",
        source=f"{_EXAMPLE}, gpt3_configs; colossalai 0.5.0: legacy/engine/schedule/_pipeline_schedule.py:20",
        holds=lambda f: f["pipeline"] == 1 or tuple(f["tensor_shape"]) == tuple(f["expected_shape"]),
    ),
    _rule(
        id="OLD003",
        remedy="add",
        title="a pipeline without NUM_MICRO_BATCHES",
        field="NUM_MICRO_BATCHES",
        fact="pipeline",
        needs=("pipeline", "has_micro_batches"),
        message="a pipeline of {pipeline} stages needs NUM_MICRO_BATCHES, and the file has none",
        detail="pipeline = {pipeline}",
        hint="add NUM_MICRO_BATCHES = {wanted}",
        values=lambda f: {"wanted": micro_batches(f["pipeline"], f.get("batch_size"))},
        added=lambda f: {"NUM_MICRO_BATCHES": micro_batches(f["pipeline"], f.get("batch_size"))},
        why="The schedule has to know into how many micro batches it cuts the batch.",
        source=f"{_EXAMPLE}, train_gpt.py reads gpc.config.NUM_MICRO_BATCHES",
        holds=lambda f: f["pipeline"] == 1 or f["has_micro_batches"],
    ),
    _rule(
        id="OLD004",
        remedy="remove",
        title="data parallelism written by hand",
        field="DATA_PARALLEL",
        fact="data_parallel_by_hand",
        needs=("data_parallel_by_hand", "data_parallel_key"),
        message="{data_parallel_key} is set by hand, and data parallelism is never written",
        detail="DP = GPUs / (TP x PP) = {num_devices} / ({tensor_parallel} x {pipeline}) = {data_parallel}",
        hint="remove {data_parallel_key}; Colossal-AI sets it",
        why="Data parallelism is what is left of the GPUs; a second value can only contradict it.",
        source=f"{_EXAMPLE}, README: DP is set automatically",
        holds=lambda f: False,
    ),
    _rule(
        id="OLD005",
        remedy="remove",
        title="fp16 and zero in one file",
        field="fp16",
        fact="fp16",
        needs=("fp16", "zero_level"),
        message="fp16 and zero are both set, and only one of them may be",
        detail="zero level {zero_level} brings mixed precision of its own",
        hint="remove fp16",
        why="Colossal-AI stops at the start: ZeRO has its own mixed precision.",
        source=f"{_INITIALIZE}:336",
        holds=lambda f: not f["fp16"] or f["zero_level"] == 0,
    ),
    _rule(
        id="OLD006",
        title="a pipeline with another mixed precision than naive",
        field="fp16.mode",
        fact="fp16_mode",
        needs=("fp16_mode", "pipeline"),
        message="a pipeline takes AMP_TYPE.NAIVE only, and fp16 mode is {fp16_mode}",
        detail="pipeline = {pipeline}, mode = {fp16_mode}",
        hint="use mode = AMP_TYPE.NAIVE",
        repaired=lambda f: _naive(str(f["fp16_mode"])),
        why="The pipeline schedule casts and scales by itself, which only the naive mode leaves to it.",
        source=f"{_INITIALIZE}:350",
        holds=lambda f: f["pipeline"] == 1 or "NAIVE" in str(f["fp16_mode"]).upper(),
    ),
    _rule(
        id="OLD007",
        title="HIDDEN_SIZE is not the model's",
        field="HIDDEN_SIZE",
        fact="hidden_size",
        needs=("hidden_size", "model_hidden_size"),
        message="HIDDEN_SIZE is {hidden_size}, and {model} has {model_hidden_size}",
        detail="{hidden_size} != {model_hidden_size}",
        hint="use HIDDEN_SIZE = {model_hidden_size}",
        repaired=lambda f: f["model_hidden_size"],
        why="TENSOR_SHAPE is made from it, so the stages would disagree about what they send.",
        source=f"{_EXAMPLE}, README: HIDDEN_SIZE is related to the model",
        holds=lambda f: f["hidden_size"] == f["model_hidden_size"],
    ),
    _rule(
        id="OLD008",
        title="a constant that parallel does not use",
        field="PIPELINE",
        fact="unused_constant",
        needs=("unused_constant", "unused_key", "used_key", "used_value"),
        message="{unused_key} is {unused_constant}, and {used_key} is {used_value}",
        detail="{unused_constant} != {used_value}; Colossal-AI reads {used_key} only",
        hint="write {used_key} = {unused_key}, or remove {unused_key}",
        repaired=lambda f: f["used_value"],
        why="Colossal-AI reads the parallel dict alone; a constant beside it that says something else is a mistake.",
        source="colossalai 0.5.0: legacy/context/parallel_context.py:416",
        holds=lambda f: f["unused_constant"] == f["used_value"],
    ),
)
