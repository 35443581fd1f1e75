"""What Megatron-LM's arguments say of precision, recomputation, ZeRO and offload."""

import json
from typing import Any

from planner.lint.dialects.megatron.keys import WITH_DEEPSPEED
from planner.lint.draft import UNDECIDED
from planner.lint.reading import Keys, Reading

DEEPSPEED = ("--deepspeed", "--deepspeed-config")
_ZERO = "zero_optimization"


def read_states(keys: Keys, reading: Reading) -> None:
    """Read them into a draft that has its degrees and its schedule."""
    _offload(keys, reading)
    half, brain = keys.flag("--fp16", name="fp16"), keys.flag("--bf16", name="bf16")
    granularity = keys.choice("--recompute-granularity", choices=("full", "selective"), name="recompute_granularity")
    reading.keys |= {
        "recompute_layers_per_stage": "--recompute-granularity",
        "zero_stage": "--use-distributed-optimizer",
    }
    reading.fields |= {
        "precision": "bf16" if brain is True else "fp16" if half is True else "fp32",
        "zero_stage": _zero_stage(keys, reading),
        "recompute": keys.on("--checkpoint-activations") or granularity == "full",
        "recompute_num_layers": _blocks(keys, reading) if granularity == "full" else None,
    }
    if granularity == "selective":
        reading.no_formula("gptplan recomputes whole layers, not attention alone")
    reading.tell(fp16=half is True, bf16=brain is True, recompute_granularity=granularity)


def _blocks(keys: Keys, reading: Reading) -> Any:
    """Recomputed layers of a stage, where each of its virtual stages has a block of them; ``None``: all or none."""
    block, chunks = keys.plain("--recompute-num-layers"), reading.fields["num_model_chunks"]
    if keys.plain("--recompute-method") != "block" or type(block) is not int or block < 1:
        return None
    return UNDECIDED if chunks is UNDECIDED else block * chunks


def _offload(keys: Keys, reading: Reading) -> None:
    """What DeepSpeed keeps on the host: by arguments, or by a configuration that the script writes itself."""
    if not keys.on(*DEEPSPEED):
        reading.offload("none", "none")
        return
    reading.dialect = WITH_DEEPSPEED
    zero: dict[str, Any] = next(filter(None, map(_zero_of, reading.source.documents)), {})
    written = {name: table.get("device") for name, table in zero.items() if isinstance(table, dict)}
    optimizer = written.get("offload_optimizer", "cpu" if keys.on("--cpu-optimizer") else "none")
    reading.offload(optimizer, written.get("offload_param", keys.plain("--remote-device")))


def _zero_of(document: str) -> dict[str, Any]:
    """What a text says of ZeRO; nothing where it is no JSON, as with variables of the script in it."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        return {}
    zero = found.get(_ZERO) if isinstance(found, dict) else None
    return zero if isinstance(zero, dict) else {}


def _zero_stage(keys: Keys, reading: Reading) -> Any:
    """ZeRO of the distributed optimizer; of DeepSpeed where it is switched on, whose default here is stage 1."""
    if not keys.on(*DEEPSPEED):
        return 1 if keys.on("--use-distributed-optimizer") else 0
    stage = keys.choice("--zero-stage", choices=(0, 1, 2, 3), default=1, name="zero_stage")
    reading.tell(deepspeed_stage=stage, no_pipeline=keys.on("--no-pipeline-parallel"))
    if not keys.has("--zero-stage"):
        reading.assumptions.append("--zero-stage is not given: stage 1, the default of Megatron-DeepSpeed, is taken")
    return stage
