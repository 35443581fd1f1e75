"""How torchtitan divides the layers of a model over the stages of a pipeline, and what FSDP keeps between them.

Read in torchtitan (b5bcd76c): torchtitan/distributed/pipeline_parallel.py, _get_pipeline_metadata (line 182) and
_generate_llm_fqn_per_model_part (line 357); torchtitan/distributed/fsdp.py, get_fsdp_reshard_after_forward_policy.
"""

from typing import Any

from planner.lint.draft import UNDECIDED
from planner.lint.reading import Keys, Reading

_SCHEDULE = "parallelism.pipeline_parallel_schedule"
_SCHEDULES = {"1f1b": "1f1b", "interleaved1f1b": "interleaved"}
_RESHARD = ("parallelism.fsdp_reshard_after_forward", "training.fsdp_reshard_after_forward")
_BY_HAND = ("parallelism.module_fqns_per_model_part", "parallelism.pipeline_parallel_split_points")
DEFAULT_CHUNKS = 2
"""Chunks of a stage under a schedule that has several, where no number of layers is given."""


def divide_layers(keys: Keys, reading: Reading, counts: dict[str, Any]) -> None:
    """Set schedule, chunks and layers of the stages; files of the first versions have other keys and are left alone."""
    stages, layers = reading.fields["pipeline_parallel"], reading.model.num_layers if reading.model else None
    if stages in (1, UNDECIDED) or reading.keys.get("pipeline_parallel", "").startswith("experimental"):
        return
    schedule = _schedule(keys, reading)
    if keys.given(*_BY_HAND):
        reading.no_formula("gptplan reads no stages that are listed by hand")
        return
    less = tuple(1 if counts.get(name) is None else counts[name] for name in ("less_first", "less_last"))
    per_chunk = counts.get("layers_per_chunk")
    if UNDECIDED in (schedule, per_chunk, *less):
        return
    single = schedule == "1f1b"
    chunks: Any = 1 if single else DEFAULT_CHUNKS
    if per_chunk is not None:
        virtual = None if layers is None else -(-(layers + sum(less)) // per_chunk)
        reading.tell(virtual_stages=virtual, chunk_layers=per_chunk, one_chunk=single)
        chunks = UNDECIDED if virtual is None else max(1, virtual // stages)
    reading.fields |= {"schedule": schedule, "num_model_chunks": chunks}
    if UNDECIDED not in (chunks, layers) and layers is not None and (per_chunk is None or virtual % stages == 0):
        _deal(reading, layers, stages * chunks, less)


def keep_weights(keys: Keys, reading: Reading) -> None:
    """Set ZeRO 1 where gathered weights stay: with a pipeline, unless the policy is to divide them again each time."""
    stages, policy = reading.fields["pipeline_parallel"], keys.word(*_RESHARD, default="default", name="zero_stage")
    if UNDECIDED in (stages, policy):
        reading.fields["zero_stage"] = UNDECIDED
    elif stages > 1 and policy != "always":
        reading.fields["zero_stage"] = 1


def _schedule(keys: Keys, reading: Reading) -> Any:
    word = keys.word(_SCHEDULE, default="1F1B", name="schedule")
    if word is UNDECIDED:
        return UNDECIDED
    reading.keys["schedule"] = _SCHEDULE if keys.given(_SCHEDULE) else ""
    known = _SCHEDULES.get(str(word).lower())
    if known is None:
        reading.no_formula(f"gptplan has no formulas for schedule {word}")
        return UNDECIDED
    return known


def _deal(reading: Reading, layers: int, virtual: int, less: tuple[int, ...]) -> None:
    """The layers of each stage: those of its chunks, of which the first ones of all take what is left over."""
    stages = reading.fields["pipeline_parallel"]
    each, rest = divmod(layers + sum(less), virtual)
    reading.tell(layers_each=each, less_layers=max(less))
    if each == 0 or max(less) > each:
        return
    dealt = [each + (chunk < rest) for chunk in range(virtual)]
    dealt[0] -= less[0]
    dealt[-1] -= less[-1]
    if virtual > stages and (rest or max(less) > 1):
        reading.no_formula("gptplan's chunks have equally many layers, but for one at the ends")
    own = tuple(sum(dealt[stage::stages]) for stage in range(stages))
    if min(own) < 1:
        reading.no_formula("gptplan has no stages without a layer")
        return
    reading.fields["layers_per_stage"] = own
