"""A training framework: what it executes, what it keeps in memory, what a step takes, how far predictions missed."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from planner.specs.base import Error, FloatBytes, Fraction, Name, OffloadTier, Precision, Schedule, Spec, TensorMode
from planner.specs.model import Family
from planner.specs.stack_experts import StackExpertsSpec
from planner.specs.stack_memory import ActivationSpec, ProcessSpec, ShardedSpec, StateBytesSpec
from planner.specs.stack_parts import PartsSpec
from planner.specs.stack_time import OverlapSpec, TrafficSpec, ZeroTrafficSpec
from planner.specs.units import Bytes, BytesPerSecond, Seconds, parse_quantity

ZeroStage = Annotated[int, Meta(ge=0, le=3)]


Families = Annotated[tuple[Family, ...], Meta(max_length=16)]


class ErrorSpec(Spec, frozen=True, kw_only=True):
    """How far predictions were from runs that were measured: means of absolute relative errors."""

    memory: Fraction
    """Of the peak allocated memory of the fullest rank."""
    step_time: Error
    """Of the step time."""
    runs: Annotated[int, Meta(ge=0, le=1_000_000)]
    """How many runs the errors are means of."""


Counts = dict[str, Any]
"""Counts of a part of a stack, by their keys."""


class CompiledSpec(Spec, frozen=True, kw_only=True):
    """What differs where blocks and loss are compiled: counts that take the place of the stack's own."""

    families: Families
    """Families of models whose blocks it compiles."""
    start_s: Seconds = field(name="start")
    """What the first step takes longer."""
    one_pass: Annotated[tuple[Precision, ...], Meta(max_length=16)] = ()
    """Precisions in which an update on the device reads gradients as they are, in one pass over memory.

    And in which gradients under ZeRO 1 and 2 are scattered behind backward, and weights gathered behind forward, in
    place."""
    one_pass_bytes: FloatBytes = 0.0
    """Bytes that such an update moves per parameter."""
    one_pass_master_bytes: FloatBytes = 4.0
    """Bytes per parameter of what it keeps of master weights beside the weights that compute."""
    recomputes_pointwise: bool = False
    """Whether backward of a compiled block can make outputs of norms and activation functions again."""
    fragmentation: Fraction | None = None
    """Share of the peak that the caching allocator reserves on top, if not that of the stack."""
    ddp_alone: bool = True
    """Whether DDP wraps a single data-parallel rank too."""
    activations: Counts = field(default_factory=dict)
    """Of ``activations``."""
    parts: Counts = field(default_factory=dict)
    """Of ``parts``."""
    traffic: Counts = field(default_factory=dict)
    """Of ``traffic``."""


class StackSpec(Spec, frozen=True, kw_only=True):
    """A training framework: what it can execute, what a parameter costs, what it overlaps."""

    name: Name
    """What plans and commands call it."""
    title: str
    """For people: the framework and what of it is meant."""
    version: str
    """Of the framework."""

    # What it executes
    tensor_modes: Annotated[tuple[TensorMode, ...], Meta(min_length=1, max_length=16)]
    """Ways in which it divides the tensors of a layer."""
    schedules: Annotated[tuple[Schedule, ...], Meta(min_length=1, max_length=16)]
    """Pipeline schedules; ``none`` is training without a pipeline."""
    zero_stages: Annotated[tuple[ZeroStage, ...], Meta(min_length=1, max_length=16)]
    """ZeRO stages that it has; 0 is none."""
    zero_stages_with_pipeline: Annotated[tuple[ZeroStage, ...], Meta(max_length=16)]
    """Those of them that work with a pipeline."""
    zero_precisions: Annotated[tuple[Precision, ...], Meta(max_length=16)]
    """Precisions in which ZeRO trains."""
    zero_stages_with_accumulation: Annotated[tuple[ZeroStage, ...], Meta(max_length=16)]
    """ZeRO stages under which several micro batches can be accumulated without a pipeline."""
    offload_tiers: Annotated[tuple[OffloadTier, ...], Meta(min_length=1, max_length=16)]
    """Where optimizer states can go."""
    offload_optimizer_fractions: Annotated[tuple[Fraction, ...], Meta(max_length=16)]
    """Shares of the optimizer states that can leave the device under ZeRO 1 and 2."""
    zero3_offload_fractions: Annotated[tuple[Fraction, ...], Meta(max_length=16)]
    """Shares of the optimizer states, and once all of those have left of the weights, under ZeRO 3."""
    families: Families = ("gpt2",)
    """Families of models that it trains."""
    grid_families: Families = ("gpt2",)
    """Those of them whose layers it divides in 2D, 2.5D and 3D."""
    slice_families: Families = ("gpt2",)
    """Those of them whose sequence 1D tensor parallelism can divide too."""
    all_to_all_families: Families = ()
    """Those of them whose sequences ranks of their own can divide, which exchange heads by all-to-all."""
    all_to_all_tensor_families: Families = ()
    """Those of these for which that goes with tensor parallelism."""
    ring_families: Families = ()
    """Those of them whose sequences ranks of their own can divide, which pass keys and values around."""
    window_pipeline_families: Families = ()
    """Those of them that keep a sliding window in a pipeline."""
    zero_bubble_families: Families = ()
    """Those of them that it runs under the zero-bubble schedule ``zbv``."""
    zero_bubble_tied_families: Families = ()
    """Those of these for which that goes with tied embeddings."""
    unpadded_head_families: Families = ()
    """Those of them whose loss head is not padded with the vocabulary."""
    sequence_parallel: bool
    """Whether 1D tensor parallelism can divide the sequence too."""
    recompute: Literal["none", "all-or-nothing", "alike", "per-layer"]
    """``all-or-nothing``: every layer of every stage recomputes, or none does. ``alike``: every stage, and every
    chunk of one, recomputes the same number of layers, where all have as many. ``per-layer``: each stage
    recomputes as many of its layers as it needs to."""
    uneven_stages: bool
    """Whether the stages of a pipeline may have different numbers of layers."""
    ends_as_layers: bool = False
    """Whether the embedding and the loss head may each take the place of a layer where layers are divided evenly."""
    empty_stages: bool = False
    """Whether a stage may hold no layer, as where the loss head counts as some."""
    rank_order: Literal["data-pipeline-tensor", "pipeline-data-tensor"] = "data-pipeline-tensor"
    """How ranks are numbered, the axis named last fastest: which of a layout's groups share a node."""
    pipeline_slices: bool = False
    """Whether tensor-parallel ranks send a slice each to the next stage, which gathers them."""

    # Vocabulary
    vocab_multiple: Annotated[int, Meta(ge=0, le=131_072)]
    """The vocabulary is padded to a multiple of this times the tensor-parallel degree; 0: not padded."""
    pads_whole_vocab: bool = True
    """Whether a rank that has the whole vocabulary pads it too, so that the head's product is aligned."""

    # Memory and time of its parts
    mixed_precision: StateBytesSpec
    """Training states in fp16 and bf16."""
    full_precision: StateBytesSpec
    """Training states in fp32."""
    activations: ActivationSpec
    """What a layer keeps for backward."""
    parts: PartsSpec = PartsSpec()
    """How it runs blocks whose parts are not GPT-2's."""
    experts: StackExpertsSpec = StackExpertsSpec()
    """How it divides and runs experts."""
    traffic: TrafficSpec
    """What element-wise work, the loss, the optimizer and the host take."""
    overlap: OverlapSpec
    """What communication hides."""
    zero_traffic: ZeroTrafficSpec
    """Ring steps of data-parallel communication."""
    sharded: ShardedSpec = ShardedSpec()
    """ZeRO stage 3."""
    compiled: CompiledSpec | None = None
    """Compiled blocks and loss, without a grid and below ZeRO stage 3; ``None``: it compiles nothing."""

    # ZeRO, DDP and offload
    zero_bucket_bytes: Bytes = field(name="zero_bucket")
    """Bucket in which ZeRO 1 and 2 reduce gradients."""
    zero_reduces_late: bool = False
    """Whether ZeRO 1 and 2 reduce gradients after the last backward without a pipeline too."""
    zero_gather_bytes: Bytes | None = field(name="zero_gather", default=None)
    """The least part of a stage's weights that a step of ZeRO 1 and 2 gathers at once, or all of them if they
    are less; ``None``: a bucket for every rank."""
    zero_gathers_in_place: bool = False
    """Whether the weights that ZeRO 1 and 2 gather after a step arrive where they stay, without a buffer."""
    ddp_alone: bool = True
    """Whether DDP wraps a single data-parallel rank too."""
    zero_copies_slices: bool = False
    """Whether each rank's slice of each tensor is copied by a kernel of its own after ZeRO 1 and 2 have gathered."""
    ddp_with_pipeline: bool = False
    """Whether DDP wraps the model without ZeRO in a pipeline too, and nowhere a model without data parallelism."""
    ddp_bucket_cap_bytes: Bytes = field(name="ddp_bucket_cap", default=Bytes(0))
    """Gradients that a bucket of DDP takes before it is reduced; 0: buckets take nothing beside their bytes."""
    ddp_twice_up_to: Annotated[float, Meta(ge=0.0, le=1e15)] = 0.0
    """Parameters of a rank up to which the buckets of the first step outlive DDP's new ones of the second."""
    offload_copy_bandwidth_bytes_per_s: BytesPerSecond = field(name="offload_copy_bandwidth")
    """The rate at which it copies offloaded states to the host, if the host link is not slower."""
    offload_return_bandwidth_bytes_per_s: BytesPerSecond | None = field(name="offload_return_bandwidth", default=None)
    """The rate at which it copies offloaded states back, if it differs."""

    # Process
    fragmentation: Fraction
    """Share of the peak that the caching allocator reserves on top."""
    process: ProcessSpec = ProcessSpec()
    """What a process takes beside tensors."""

    # How far predictions missed
    errors: dict[str, ErrorSpec] = field(default_factory=dict)
    """By kind of layout, and of all of them (``all``): what the stack's predictions missed by so far."""
    measured_on: Annotated[tuple[Name, ...], Meta(max_length=64)] = ()
    """Names of the hardware that the runs behind ``errors`` were on."""
    transfer_error: Error = 0.0
    """What is added to the step-time error on other hardware that nobody calibrated, as a share of the step time."""
    calibrated_transfer_error: Error = 0.0
    """The same on other hardware that was calibrated, which does not tell how fast its host is for the stack."""

    sources: dict[str, str]
    """Where each number is from, by its key."""

    def __post_init__(self) -> None:
        """Refuse counts of compiled blocks that the stack does not have."""
        if self.compiled is not None:
            self.as_compiled()

    def as_compiled(self) -> "StackSpec":
        """The stack with the counts of compiled blocks and loss.

        Raises:
            ValueError: one of them is no count of a stack.
        """
        own = self.compiled
        if own is None:
            return self
        changed = {name: _with_counts(getattr(self, name), name, getattr(own, name)) for name in _COUNTED}
        return msgspec.structs.replace(self, compiled=None, ddp_alone=own.ddp_alone, **changed)

    def state_bytes(self, precision: str) -> StateBytesSpec:
        """Bytes per parameter under ``precision``."""
        return self.full_precision if precision == "fp32" else self.mixed_precision


_COUNTED = ("activations", "parts", "traffic")
"""The parts of a stack of which compiled blocks have counts of their own."""


def _with_counts(part: Any, name: str, counts: Counts) -> Any:
    """A part of a stack with other counts.

    Raises:
        ValueError: it has no such count, or the value is none.
    """
    known = {one.encode_name: one for one in msgspec.structs.fields(part)}
    changed = {}
    for key, value in counts.items():
        if key not in known:
            raise ValueError(f"compiled.{name}.{key}: `{name}` has no such key")
        changed[known[key].name] = msgspec.convert(value, known[key].type, dec_hook=_quantity)
    return msgspec.structs.replace(part, **changed)


def _quantity(kind: type, value: Any) -> Any:
    return parse_quantity(value, kind) if isinstance(value, str) else kind(value)
