"""The three kinds of spec a plan is made from: model, hardware and software stack.

All structs are frozen. A spec file writes dimensional values as strings with a unit; see
:mod:`planner.units`. Decoding and look-up are in :mod:`planner.spec_files`; what a combination
of specs makes impossible is in :mod:`planner.rules`.
"""

import itertools
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from planner.units import Bytes, BytesPerSecond, FlopsPerSecond, Seconds

Precision = Literal["fp16", "bf16", "fp32"]
TensorMode = Literal["none", "1d", "2d", "2.5d", "3d"]
Schedule = Literal["none", "1f1b", "interleaved"]
OffloadTier = Literal["none", "cpu", "nvme"]

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A spec's name; it becomes part of file names."""
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]
"""A fraction that something is divided by."""
Positive = Annotated[float, Meta(gt=0.0)]

ELEMENT_BYTES: dict[str, int] = {"fp16": 2, "bf16": 2, "fp32": 4}
"""Bytes of one element of a weight or activation, by precision."""


class _Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every struct that a spec file decodes to: unknown keys are refused."""


class ModelSpec(_Spec, frozen=True, kw_only=True):
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


class EfficiencySpec(_Spec, frozen=True, kw_only=True):
    """What the device reaches of its peaks."""

    matmul: tuple[tuple[Positive, Share], ...]
    """Points ``[FLOP of one matrix product, fraction of the dense peak]``, rising in the first."""
    memory: Share
    """Share of the memory bandwidth that element-wise kernels reach."""

    def __post_init__(self) -> None:
        """Refuse a curve that cannot be interpolated."""
        sizes = [size for size, _ in self.matmul]
        if not sizes or any(left >= right for left, right in itertools.pairwise(sizes)):
            raise ValueError(f"`matmul` needs one or more points of rising FLOP, and has {sizes}")


class LinkSpec(_Spec, frozen=True, kw_only=True):
    """The link between two devices of one node."""

    kind: str
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per device."""
    latency_s: Seconds = field(name="latency")
    efficiency: Share
    """Share of the bandwidth that a large collective reaches."""


class NetworkSpec(_Spec, frozen=True, kw_only=True):
    """The network between nodes."""

    kind: str
    nics_per_node: Count
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per NIC."""
    latency_s: Seconds = field(name="latency")
    efficiency: Share
    oversubscription: Positive
    """Injection bandwidth of the nodes over the bisection the switches offer; 1 is full."""


class HostSpec(_Spec, frozen=True, kw_only=True):
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


class HardwareSpec(_Spec, frozen=True, kw_only=True):
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
    communicator_bytes: Bytes = field(name="communicator")
    """Taken by the communicators of each parallel axis that a process takes part in."""
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
    sources: dict[str, str]


class StateBytesSpec(_Spec, frozen=True, kw_only=True):
    """Bytes that one parameter costs in each training state."""

    weight: float
    gradient: float
    master: float
    moments: float
    step_gradient: float
    """Growth of the gradient in the optimizer step, where it is turned to full precision."""
    zero_step_gradient: float
    """The same per parameter of the local shard, under ZeRO."""
    ddp_bucket: float
    """Gradient buckets of torch DDP, which wraps layouts without ZeRO and pipeline."""
    zero_step_copy: float = 0.0
    """Copies of gradients in the optimizer step of ZeRO 1 and 2, per parameter of the whole stage."""


class ActivationSpec(_Spec, frozen=True, kw_only=True):
    """What a transformer layer keeps for backward, in elements per token and hidden unit.

    ``replicated`` tensors exist on every tensor-parallel rank, ``sharded`` ones are divided.
    """

    replicated_elements: float
    sharded_elements: float
    dropout_mask_bytes: float
    """Bytes per token and hidden unit, replicated, kept when dropout is on."""
    attention: Literal["flash", "unskipped", "materialised", "recomputed"]
    """``flash`` and ``unskipped`` keep no scores; only ``flash`` skips the masked half of them.
    ``materialised`` keeps scores, ``recomputed`` makes them again in backward (selective recomputation).
    """
    score_elements: float
    """Elements kept per attention score when scores are materialised."""
    score_mask_bytes: float
    pipeline_elements: float
    """Hidden states that each micro batch in flight holds beside its layers: the stage's output."""
    logits_mixed_bytes: float
    """Bytes per logit alive at the peak of the loss, in fp16 and bf16, without tensor parallelism."""
    logits_full_bytes: float
    """The same in fp32."""
    split_logits_mixed_bytes: float
    """Bytes per logit of a rank in fp16 and bf16, where tensor parallelism splits the vocabulary."""
    split_logits_full_bytes: float
    """The same in fp32."""
    grid_logits_mixed_bytes: float = 8.0
    """The same in fp16 and bf16 where a 2D, 2.5D or 3D grid divides the logits."""
    grid_logits_full_bytes: float = 12.0
    """The same in fp32."""
    mask_elements: float = 0.0
    """Elements per pair of positions of the attention mask that each sequence in flight keeps."""
    gathered_elements: float = 0.0
    """Gathered inputs that sequence parallelism keeps beside a rank's slices; without them backward gathers again."""
    pipeline_extra_microbatches: float = 0.0
    """Micro batches that each stage but the last keeps beyond those of its schedule."""
    causal_buffer_bytes: float = 0.0
    """Bytes per pair of positions of a causal mask that each layer owns."""
    backward_elements: float = 0.0
    """Gradients of activations at the peak of a layer's backward, sharded elements per token and hidden unit."""


class TrafficSpec(_Spec, frozen=True, kw_only=True):
    """Memory traffic and kernel count of a layer's element-wise work, forward.

    Elements are per token and hidden unit, reads plus writes.
    """

    replicated_elements: float
    sharded_elements: float
    kernels: float
    """Kernels issued per layer in forward; backward issues twice as many."""
    loss_passes: float
    """Reads and writes of the logits by loss, forward and backward."""
    optimizer_bytes: float
    """Bytes moved per updated parameter by one optimizer step."""
    host_optimizer_bytes: float | None = None
    """The same on the host for ZeRO stage 3, if its optimizer there is another one."""
    score_elements: float = 0.0
    """Reads and writes per attention score, forward; when scores are materialised."""
    attention_efficiency: Share | None = None
    """Share of the peak that attention kernels reach which store no scores, if not that of matrix products."""
    host_bytes_per_s: BytesPerSecond = field(name="host_bandwidth", default=BytesPerSecond(float("inf")))
    """Host memory traffic that one process reaches in an optimizer step there, if its share of the host's is more."""
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """Host time to run one layer's forward, its launches included; backward takes twice as long."""
    tensor_parallel_host_s: Seconds = field(name="tensor_parallel_host", default=Seconds(0))
    """More of it where tensor parallelism divides the layer."""
    zero_tensor_host_s: Seconds = field(name="zero_tensor_host", default=Seconds(0))
    """Host time per parameter tensor of one optimizer step under ZeRO 1 and 2."""
    collective_s: Seconds = field(name="collective", default=Seconds(0))
    """Fixed cost of one tensor-parallel collective, beside the links' latency."""


class OverlapSpec(_Spec, frozen=True, kw_only=True):
    """What communication hides behind computation, as the share of the compute it can use."""

    data_parallel: Fraction
    """Gradient reduction behind backward, without a pipeline."""
    tensor_parallel: Fraction
    """Backward all-reduce of the tensor-parallel input gradient behind the weight gradient."""
    sharded: Fraction = 0.0
    """Gathers and scatters of ZeRO stage 3 behind the computation of layers."""
    pipeline: Fraction = 0.0
    """Sends between stages that computation hides under the interleaved schedule, as a share of them."""
    data_parallel_pipeline: Fraction = 0.0
    """Gradient reduction that computation hides with a pipeline, as a share of it."""


class ShardedSpec(_Spec, frozen=True, kw_only=True):
    """How ZeRO stage 3 keeps weights in pieces, and what gathering them for use takes.

    The defaults are the plain scheme: pieces are layers, gathered one at a time before forward and
    backward, whose gradients are scattered at once.
    """

    unit_parameters: Annotated[int, Meta(ge=0)] = 0
    """The least parameters of a piece, which holds whole tensors; a model below it is not sharded. 0: a layer."""
    unit_search_parameters: Annotated[int, Meta(ge=0)] = 0
    """How much larger a piece may become so that tensors fill pieces with little waste."""
    unit_at_most_layer: bool = False
    """Whether a piece need be no larger than a layer's matrices, its size searched by hidden sizes."""
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """More host time for one layer's forward than without ZeRO stage 3."""
    live_units: float = 1.0
    """Gathered pieces on the device at once: the one in use and those gathered ahead."""
    gradient_units: float = 1.0
    """Pieces of unscattered gradients on the device at once."""
    gradients_reuse_weights: bool = False
    """Whether gradients of a single micro batch take the place of the weights' pieces."""
    step_gradient: float = 0.0
    """Growth of a gradient in the optimizer step, in bytes per parameter of a rank's pieces."""
    gathers: float = 2.0
    """Gatherings of all weights per micro batch."""
    recompute_gathers: float = 0.0
    """Further gatherings of a layer that recomputes."""
    scatters: float = 1.0
    """Scatterings of all gradients per micro batch."""
    pinned_weight: float = 0.0
    """Pinned host bytes per parameter of a rank's pieces of weights, whatever is offloaded."""
    pinned_master: float = 0.0
    """The same for its pieces of master weights."""
    pinned_blocks: bool = False
    """Whether pinned pieces are rounded up to powers of two."""
    copy_bytes_per_s: BytesPerSecond = field(name="copy_bandwidth", default=BytesPerSecond(float("inf")))
    """The rate at which pieces move between device and host, one way, if the host link is not slower."""
    logits_bytes: float | None = None
    """Bytes per logit at the peak of the loss, where ZeRO stage 3 runs another loss."""
    fragmentation: Fraction | None = None
    """Share of the peak that the allocator reserves on top, if not that of the stack."""


class ZeroTrafficSpec(_Spec, frozen=True, kw_only=True):
    """Ring steps of data-parallel communication by ZeRO stage: 1 for a reduce-scatter or an all-gather."""

    stage0: float
    stage1: float
    stage2: float
    """One of them gathers the weights; the others follow every micro batch."""


class ProcessSpec(_Spec, frozen=True, kw_only=True):
    """What a process of the stack takes of its device beside tensors, where the card's figures do not tell."""

    context_bytes: Bytes | None = field(name="context", default=None)
    """Taken by a process that communicates with nobody, in place of the card's figure."""
    communicator_bytes: Bytes | None = field(name="communicator", default=None)
    """Taken by one communicator, in place of the card's figure."""
    all_ranks: float = 0.0
    """Communicators over all ranks, where there are several."""
    pipeline: float = 1.0
    """Communicators of pipeline parallelism."""
    data_parallel: float = 1.0
    """Communicators of data parallelism."""
    tensor_parallel: dict[TensorMode, float] = {}
    """Communicators of a tensor mode beyond one for each axis of its grid."""


class ErrorSpec(_Spec, frozen=True, kw_only=True):
    """How far predictions were from runs that were measured: means of absolute relative errors."""

    memory: Fraction
    """Of the peak allocated memory of the fullest rank."""
    step_time: float
    runs: Annotated[int, Meta(ge=0)]


class StackSpec(_Spec, frozen=True, kw_only=True):
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
    vocab_multiple: Annotated[int, Meta(ge=0)]
    """The vocabulary is padded to a multiple of this times the tensor-parallel degree; 0: not padded."""
    mixed_precision: StateBytesSpec
    full_precision: StateBytesSpec
    activations: ActivationSpec
    traffic: TrafficSpec
    overlap: OverlapSpec
    zero_traffic: ZeroTrafficSpec
    sharded: ShardedSpec = ShardedSpec()
    zero_bucket_bytes: Bytes = field(name="zero_bucket")
    offload_copy_bytes_per_s: BytesPerSecond = field(name="offload_copy_bandwidth")
    """The rate at which it copies offloaded states, one way, if the host link is not slower."""
    fragmentation: Fraction
    """Share of the peak that the caching allocator reserves on top."""
    process: ProcessSpec = ProcessSpec()
    errors: dict[str, ErrorSpec] = {}
    """By kind of layout, and of all of them (``all``): what the stack's predictions missed by so far."""
    sources: dict[str, str]

    def state_bytes(self, precision: str) -> StateBytesSpec:
        """Bytes per parameter under ``precision``."""
        return self.full_precision if precision == "fp32" else self.mixed_precision
