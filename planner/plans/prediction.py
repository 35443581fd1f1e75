"""What the cost model predicts of one layout, in the form a plan keeps."""

from typing import Annotated

import msgspec
from msgspec import Meta

TERM_WORDS = {
    "forward_backward": "forward and backward",
    "loss_head": "loss head",
    "tensor_parallel_communication": "tensor-parallel communication",
    "expert_communication": "expert communication",
    "pipeline_communication": "pipeline communication",
    "pipeline_bubble": "pipeline bubble",
    "pipeline_messages": "waits for pipeline messages",
    "data_parallel_communication": "data-parallel communication",
    "tied_embedding_reduction": "tied-embedding reduction",
    "gradient_accumulation": "gradient accumulation",
    "weight_gathering": "weight gathering",
}
"""Terms of the step time in words."""

NumBytes = Annotated[int, Meta(ge=0, le=2**62)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e15)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Rate = Annotated[float, Meta(ge=0.0, le=1e30)]


class StagePrediction(msgspec.Struct, frozen=True, kw_only=True):
    """Predicted memory of the ranks of one pipeline stage."""

    peak_bytes: NumBytes
    peak_phase: str
    """The part of a step that sets the peak."""
    breakdown_bytes: dict[str, NumBytes]
    """Named terms at the peak; they sum to ``peak_bytes``."""
    reserved_bytes: NumBytes
    """What the allocator holds at its largest: the peak and what lies between its blocks."""
    device_bytes: NumBytes
    """What the driver reports in use: that, the process's context and its communicators."""
    capacity_bytes: NumBytes
    reserve_bytes: NumBytes
    """Left free: a peak above capacity less reserve does not fit."""
    fits_probability: Probability | None = None
    """With which the stage fits, at least, by what predictions of measured runs missed; ``None`` in older plans."""


class ExpectedError(msgspec.Struct, frozen=True, kw_only=True):
    """What predictions like this one missed by when they were measured: means of absolute relative errors."""

    memory: float
    step_time: float
    runs: int
    basis: str
    """The kind of layout that was measured, ``all`` kinds, or ``none``."""
    transfer: float = 0.0
    """Part of ``step_time`` that is there because no run on this hardware was measured."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What the cost model expects of one optimizer step."""

    step_s: Annotated[float, Meta(gt=0.0, le=1e15)]
    tokens_per_s: Annotated[float, Meta(gt=0.0, le=1e30)]
    model_flops_per_s_per_gpu: Rate
    mfu: Rate
    """Model FLOP/s per device over its dense peak; recomputation does not count."""
    breakdown_s: dict[str, Seconds]
    """Named terms; they sum to ``step_s``."""
    stages: tuple[StagePrediction, ...]
    host_bytes_per_node: NumBytes
    nvme_bytes_per_node: NumBytes
    expected_error: ExpectedError
    assumptions: tuple[str, ...]
    not_modelled: tuple[str, ...]
    schedule_step_s: Seconds | None = None
    """The exact longest path through the schedule; ``step_s`` is the closed form that the search compares.

    ``None`` where the schedule cannot be played.
    """
    fits_probability: Probability | None = None
    """Of the stage that is the least sure to fit: what a stage is off by, the others are as well."""
    step_s_interval: tuple[Seconds, Seconds] | None = None
    """What the step takes with a probability of 90 %, by what predictions of measured runs missed."""
