"""The three kinds of spec a plan is made from: model, hardware and software stack.

All structs are frozen. A spec file writes dimensional values as strings with a unit; see
:mod:`planner.units`. Decoding and look-up are in :mod:`planner.spec_files`; what a combination
of specs makes impossible is in :mod:`planner.rules`.
"""

import itertools
from typing import Annotated, Literal

from msgspec import Meta, field

from planner.spec_parts import (
    ELEMENT_BYTES,
    ActivationSpec,
    Count,
    ErrorSpec,
    Fraction,
    Name,
    OffloadTier,
    OverlapSpec,
    Positive,
    Precision,
    ProcessSpec,
    Schedule,
    ShardedSpec,
    Share,
    Spec,
    StateBytesSpec,
    TensorMode,
    TrafficSpec,
    ZeroTrafficSpec,
)
from planner.units import Bytes, BytesPerSecond, FlopsPerSecond, Seconds

__all__ = [
    "ELEMENT_BYTES",
    "ActivationSpec",
    "EfficiencySpec",
    "ErrorSpec",
    "Fraction",
    "HardwareSpec",
    "HostSpec",
    "LinkSpec",
    "ModelSpec",
    "NetworkSpec",
    "OffloadTier",
    "OverlapSpec",
    "Precision",
    "ProcessSpec",
    "Schedule",
    "ShardedSpec",
    "StackSpec",
    "StateBytesSpec",
    "TensorMode",
    "TilesSpec",
    "TrafficSpec",
    "ZeroTrafficSpec",
]


class ModelSpec(Spec, frozen=True, kw_only=True):
    """A GPT-2-architecture model and the training step its authors used."""

    name: Name
    title: str
    num_layers: Count
    hidden_size: Count
    num_heads: Count
    ffn_hidden_size: Count
    vocab_size: Count
    max_seq_len: Count
    """Rows of the position table."""
    tied_embeddings: bool
    """Whether the loss head reuses the token embedding."""
    dropout: Fraction
    seq_len: Count
    """Tokens of one training sequence, unless ``--seq-len`` says otherwise."""
    global_batch: Count
    """Sequences of one optimizer step, unless ``--global-batch`` says otherwise."""
    precision: Precision
    sources: dict[str, str]
    """Where each number comes from: field name to citation."""

    def __post_init__(self) -> None:
        """Refuse shapes that are no transformer."""
        if self.hidden_size % self.num_heads:
            rest = f"{self.hidden_size} % {self.num_heads} = {self.hidden_size % self.num_heads}"
            raise ValueError(f"`hidden_size` has to divide by `num_heads`: {rest}")
        if self.seq_len > self.max_seq_len:
            raise ValueError(f"`seq_len` {self.seq_len} is longer than `max_seq_len` {self.max_seq_len}")


class TilesSpec(Spec, frozen=True, kw_only=True):
    """How the device cuts a matrix product into tiles, of which each multiprocessor computes one at a time."""

    multiprocessors: Count
    rate: Share
    """Share of the peak that the best tile reaches while every multiprocessor computes one."""
    start_s: Seconds = field(name="start")
    """Time of a product before its first and after its last tile, on the device."""
    shapes: tuple[tuple[Count, Count, Share], ...]
    """Rows and columns of a tile of the result, and the share of the best tile's rate that it reaches."""


class EfficiencySpec(Spec, frozen=True, kw_only=True):
    """What the device reaches of its peaks."""

    matmul: tuple[tuple[Positive, Share], ...]
    """Points ``[FLOP of one matrix product, fraction of the dense peak]``, rising in the first."""
    memory: Share
    """Share of the memory bandwidth that element-wise kernels reach."""
    attention: Share = 1.0
    """What attention kernels written for the generation before keep of their share of the peak."""
    native_attention: tuple[Share, Share] | None = None
    """Share of the peak that attention kernels written for this card reach, forward and backward."""
    native_attention_head: Count = 1
    """Their tiles hold heads whose size is a multiple of this; smaller ones leave a part of a tile unused."""
    alignment: Count = 1
    """Elements of two bytes that the sides of a product should be multiples of."""
    unaligned: Share = 1.0
    """Share of that efficiency which products with other sides reach."""
    tiles: TilesSpec | None = None
    """What whole products cost by their shapes, in place of ``matmul``, where the device is known that well."""
    odd: Share = 1.0
    """Share of it for sides that are no multiple of 8 elements, with which no vector of 16 bytes is aligned."""

    def __post_init__(self) -> None:
        """Refuse a curve that cannot be interpolated."""
        sizes = [size for size, _ in self.matmul]
        if not sizes or any(left >= right for left, right in itertools.pairwise(sizes)):
            raise ValueError(f"`matmul` needs one or more points of rising FLOP, and has {sizes}")


class LinkSpec(Spec, frozen=True, kw_only=True):
    """The link between two devices of one node."""

    kind: str
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per device."""
    latency_s: Seconds = field(name="latency")
    efficiency: Share
    """Share of the bandwidth that a large collective reaches."""
    start_s: Seconds = field(name="start", default=Seconds(0))
    """Time of an all-reduce beside its ring steps, half of it for a gathering or a scattering."""
    pair_efficiency: Share | None = None
    """The same of a collective over two devices, if it differs."""


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """The network between nodes."""

    kind: str
    nics_per_node: Count
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per NIC."""
    latency_s: Seconds = field(name="latency")
    efficiency: Share
    oversubscription: Positive
    """Injection bandwidth of the nodes over the bisection the switches offer; 1 is full."""


class HostSpec(Spec, frozen=True, kw_only=True):
    """What the host of one node offers to offloaded states."""

    memory_bytes: Bytes = field(name="memory")
    memory_bandwidth_bytes_per_s: BytesPerSecond = field(name="memory_bandwidth")
    """All sockets of the node together."""
    device_bandwidth_bytes_per_s: BytesPerSecond = field(name="device_bandwidth")
    """One-way between the host and one device."""
    nvme_capacity_bytes: Bytes = field(name="nvme_capacity")
    nvme_read_bytes_per_s: BytesPerSecond = field(name="nvme_read")
    nvme_write_bytes_per_s: BytesPerSecond = field(name="nvme_write")
    process_bytes: Bytes = field(name="process", default=Bytes(0))
    """Host memory of one rank's process and data loader, beside everything that is offloaded."""


class HardwareSpec(Spec, frozen=True, kw_only=True):
    """A device, the node it sits in and the network between nodes."""

    name: Name
    title: str
    device: Literal["cuda", "cpu"]
    device_names: tuple[str, ...]
    """Parts of the names under which the driver reports this device."""
    memory_bytes: Bytes = field(name="memory")
    """What one process can allocate on an idle device."""
    context_bytes: Bytes = field(name="context")
    """Taken by the driver and the libraries of a process that communicates with nobody."""
    eager_context_bytes: Bytes | None = field(name="eager_context", default=None)
    """The same where every kernel is loaded with it, before CUDA 11.7; ``None``: no more than ``context``."""
    communicator_bytes: Bytes = field(name="communicator")
    """Taken by the communicators of each parallel axis that a process takes part in."""
    workspace_bytes: Bytes = field(name="workspace", default=Bytes(0))
    """One workspace of PyTorch's matrix products."""
    memory_bandwidth_bytes_per_s: BytesPerSecond = field(name="memory_bandwidth")
    kernel_launch_s: Seconds = field(name="kernel_launch")
    """Host time to issue one kernel: the floor under small layers."""
    devices_per_node: Count
    peak_flops_per_s: dict[Precision, FlopsPerSecond] = field(name="peak")
    """Dense matrix rate by precision."""
    efficiency: EfficiencySpec
    node_link: LinkSpec
    network: NetworkSpec
    host: HostSpec
    calibrated: bool = False
    """Whether `gptplan calibrate` measured it on the machine that it stands for."""
    sources: dict[str, str]


class StackSpec(Spec, frozen=True, kw_only=True):
    """A training framework: what it can execute, what a parameter costs, what it overlaps."""

    name: Name
    title: str
    version: str
    tensor_modes: tuple[TensorMode, ...]
    schedules: tuple[Schedule, ...]
    zero_stages: tuple[int, ...]
    zero_stages_with_pipeline: tuple[int, ...]
    zero_precisions: tuple[Precision, ...]
    zero_stages_with_accumulation: tuple[int, ...]
    """ZeRO stages under which several micro batches can be accumulated without a pipeline."""
    offload_tiers: tuple[OffloadTier, ...]
    offload_optimizer_fractions: tuple[Fraction, ...]
    """Shares of the optimizer states that can leave the device under ZeRO 1 and 2."""
    zero3_offload_fractions: tuple[Fraction, ...]
    """Shares of the optimizer states, and once all of those have left of the weights, under ZeRO 3."""
    sequence_parallel: bool
    recompute: Literal["none", "all-or-nothing", "per-layer"]
    """``all-or-nothing``: every layer of every stage recomputes, or none does. ``per-layer``: each stage
    recomputes as many of its layers as it needs to."""
    uneven_stages: bool
    rank_order: Literal["data-pipeline-tensor", "pipeline-data-tensor"] = "data-pipeline-tensor"
    """How ranks are numbered, the axis named last fastest: which of a layout's groups share a node."""
    pipeline_slices: bool = False
    """Whether tensor-parallel ranks send a slice each to the next stage, which gathers them."""
    vocab_multiple: Annotated[int, Meta(ge=0)]
    """The vocabulary is padded to a multiple of this times the tensor-parallel degree; 0: not padded."""
    pads_whole_vocab: bool = True
    """Whether a rank that has the whole vocabulary pads it too, so that the head's product is aligned."""
    mixed_precision: StateBytesSpec
    full_precision: StateBytesSpec
    activations: ActivationSpec
    traffic: TrafficSpec
    overlap: OverlapSpec
    zero_traffic: ZeroTrafficSpec
    sharded: ShardedSpec = ShardedSpec()
    zero_bucket_bytes: Bytes = field(name="zero_bucket")
    zero_reduces_late: bool = False
    """Whether ZeRO 1 and 2 reduce gradients after the last backward without a pipeline too."""
    zero_gather_bytes: Bytes | None = field(name="zero_gather", default=None)
    """The least part of a stage's weights that a step of ZeRO 1 and 2 gathers at once, or all of them if they
    are less; ``None``: a bucket for every rank."""
    zero_gathers_in_place: bool = False
    """Whether the weights that ZeRO 1 and 2 gather after a step arrive where they stay, without a buffer."""
    ddp_twice_up_to: Annotated[float, Meta(ge=0.0)] = 0.0
    """Parameters of a rank up to which the buckets of the first step outlive DDP's new ones of the second."""
    offload_copy_bytes_per_s: BytesPerSecond = field(name="offload_copy_bandwidth")
    """The rate at which it copies offloaded states to the host, if the host link is not slower."""
    offload_return_bytes_per_s: BytesPerSecond | None = field(name="offload_return_bandwidth", default=None)
    """The rate at which it copies them back, if it differs."""
    fragmentation: Fraction
    """Share of the peak that the caching allocator reserves on top."""
    process: ProcessSpec = ProcessSpec()
    errors: dict[str, ErrorSpec] = field(default_factory=dict)
    """By kind of layout, and of all of them (``all``): what the stack's predictions missed by so far."""
    measured_on: tuple[Name, ...] = ()
    """Names of the hardware that the runs behind ``errors`` were on."""
    transfer_error: Annotated[float, Meta(ge=0.0)] = 0.0
    """What is added to the step-time error on other hardware that nobody calibrated, as a share of the step time."""
    calibrated_transfer_error: Annotated[float, Meta(ge=0.0)] = 0.0
    """The same on hardware that was calibrated, which does not tell how fast its host is for the stack."""
    sources: dict[str, str]

    def state_bytes(self, precision: str) -> StateBytesSpec:
        """Bytes per parameter under ``precision``."""
        return self.full_precision if precision == "fp32" else self.mixed_precision
