"""For every rule of configurations a file that breaks it and one that keeps it, and what is said of the broken one."""

from typing import Any, NamedTuple


class Case(NamedTuple):
    """One rule. ``message`` is the message of the broken file."""

    rule: str
    name: str
    """The file's name, whose ending is its language."""
    broken: str
    kept: str
    message: str
    gpus: int = 8
    model: str | None = None
    """The built-in model that is asked for, where the file names none and the rule needs one."""


def old(**keys: object) -> str:
    """A configuration of 2022; ``parallel`` comes from ``pipeline``, ``size``, ``mode`` and ``depth``."""
    mesh = {key: keys.pop(key, default) for key, default in (("pipeline", 1), ("size", 1), ("mode", None))}
    lines = {"BATCH_SIZE": 8, "SEQ_LEN": 1024} | keys
    parallel = f"dict(pipeline={mesh['pipeline']}, tensor=dict(size={mesh['size']}, mode={mesh['mode']!r}))"
    lines = {"model": "dict(type=gpt2_small)", "fp16": "dict(mode=AMP_TYPE.NAIVE)", "parallel": parallel} | lines
    return "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)


def plugin(name: str, extra: str = "", **arguments: object) -> str:
    """A script with one plugin; ``extra`` stands after it."""
    written = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return f"batch_size = 8\nmodel = 'gpt2-small'\nplugin = {name}({written})\n{extra}\n"


def hybrid(extra: str = "", **arguments: object) -> str:
    """A HybridParallelPlugin with a pipeline of one stage unless said otherwise."""
    return plugin("HybridParallelPlugin", extra, **({"tp_size": 1, "pp_size": 1} | arguments))


def gemini(extra: str = "", **arguments: object) -> str:
    """A GeminiPlugin."""
    return plugin("GeminiPlugin", extra, **arguments)


def zero(extra: str = "", **arguments: object) -> str:
    """A LowLevelZeroPlugin."""
    return plugin("LowLevelZeroPlugin", extra, **arguments)


def megatron(options: str) -> str:
    """A command line of a model that fits everything."""
    shape = "" if "--hidden-size" in options else " --num-layers 12 --hidden-size 768 --num-attention-heads 12"
    return f"torchrun pretrain_gpt.py{shape} --seq-length 1024 --micro-batch-size 1 {options}\n"


def deepspeed(rest: str) -> str:
    """A DeepSpeed file with a micro batch of 4 on 8 GPUs."""
    return '{"train_micro_batch_size_per_gpu": 4, ' + rest + "}"


PIPE: dict[str, Any] = {"pipeline": 2, "NUM_MICRO_BATCHES": 4}
ZERO_DICT = "dict(level=2)"

CASES = (
    Case(
        "OLD001", "a.py", old(**PIPE, BATCH_SIZE=9), old(**PIPE), "BATCH_SIZE 9 does not divide by NUM_MICRO_BATCHES 4"
    ),
    Case(
        "OLD002",
        "a.py",
        old(**PIPE, TENSOR_SHAPE="(2, 1024, 384)"),
        old(**PIPE, TENSOR_SHAPE="(2, 1024, 768)"),
        "TENSOR_SHAPE is (2, 1024, 384), and the stages send (2, 1024, 768)",
    ),
    Case(
        "OLD003",
        "a.py",
        old(pipeline=2),
        old(**PIPE),
        "a pipeline of 2 stages needs NUM_MICRO_BATCHES, and the file has none",
    ),
    Case(
        "OLD004",
        "a.py",
        old(DATA_PARALLEL=8),
        old(),
        "DATA_PARALLEL is set by hand, and data parallelism is never written",
    ),
    Case(
        "OLD005",
        "a.py",
        old(zero=ZERO_DICT),
        old(zero=ZERO_DICT, fp16=None),
        "fp16 and zero are both set, and only one of them may be",
    ),
    Case(
        "OLD006",
        "a.py",
        old(**PIPE, fp16="dict(mode=AMP_TYPE.TORCH)"),
        old(**PIPE),
        "a pipeline takes AMP_TYPE.NAIVE only, and fp16 mode is AMP_TYPE.TORCH",
    ),
    Case("OLD007", "a.py", old(HIDDEN_SIZE=1024), old(HIDDEN_SIZE=768), "HIDDEN_SIZE is 1024, and gpt2-small has 768"),
    Case(
        "OLD008", "a.py", old(**PIPE, PIPELINE=4), old(**PIPE, PIPELINE=2), "PIPELINE is 4, and parallel.pipeline is 2"
    ),
)
