"""A training framework: what it executes, what a parameter costs, what it overlaps."""

from typing import Annotated, Literal

from msgspec import Meta, field

from planner.specs.base import Fraction, Name, OffloadTier, Precision, Schedule, Share, Spec, TensorMode
from planner.specs.units import Bytes, BytesPerSecond, Seconds

Attention = Literal["flash", "unskipped", "materialised", "recomputed"]


class StateBytesSpec(Spec, frozen=True, kw_only=True):
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
    gradient_buffer: float = 0.0
    """Of the gradients, what lies in buffers that exist before the first of them is made."""
    tensor_cast: float = 0.0
    """The copy through which the gradient of one weight at a time accumulates, per parameter of the largest."""


class ActivationSpec(Spec, frozen=True, kw_only=True):
    """What a transformer layer keeps for backward, in elements per token and hidden unit.

    ``replicated`` tensors exist on every tensor-parallel rank, ``sharded`` ones are divided.
    """

    replicated_elements: float
    sharded_elements: float
    dropout_mask_bytes: float
    """Bytes per token and hidden unit, replicated, kept when dropout is on."""
    attention: Attention
    """``flash`` and ``unskipped`` keep no scores; only ``flash`` skips the masked half of them.
    ``materialised`` keeps scores, ``recomputed`` makes them again in backward (selective recomputation).
    """
    score_elements: float
    """Elements kept per attention score when scores are materialised."""
    score_mask_bytes: float
    softmax_bytes: float = 0.0
    """Per token and head, kept by attention that stores no scores: the logarithm of each softmax's sum."""
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
    gathered_outlive_backward: bool = False
    """Whether they stay after a layer's backward, until the next micro batch's forward has ended."""
    pipeline_divided: bool = False
    """Whether the ranks of a tensor-parallel group hold their own part of a stage's output only."""
    pipeline_extra_microbatches: float = 0.0
    """Micro batches beyond those of its schedule whose outputs each stage but the last keeps."""
    causal_buffer_bytes: float = 0.0
    """Bytes per pair of positions of a causal mask that each layer owns."""
    backward_elements: float = 0.0
    """Gradients of activations at the peak of a layer's backward, sharded elements per token and hidden unit."""
    backward_replicated_elements: float = 0.0
    """The same, of gradients that every tensor-parallel rank has whole."""


class TrafficSpec(Spec, frozen=True, kw_only=True):
    """Memory traffic and kernel count of a layer's element-wise work, forward.

    Elements are per token and hidden unit, reads plus writes.
    """

    replicated_elements: float
    sharded_elements: float
    backward_replicated_elements: float | None = None
    """The same in backward, if not twice those of forward."""
    backward_sharded_elements: float | None = None
    """The same in backward, if not twice those of forward."""
    recompute_stops_early: bool = False
    """Whether the second forward of a layer ends with the last tensor that backward needs, before its last product."""
    dropout_elements: float = 0.0
    """More of the replicated ones, in forward and in backward, where the model drops activations."""
    bias_passes: float = 0.0
    """Reads and writes of each output of the products, where tensor parallelism adds biases by kernels of their own."""
    grid_elements: float = 0.0
    """More of them in a 2D, 2.5D or 3D grid, forward; backward twice as many."""
    kernels: float
    """Kernels issued per layer in forward; backward issues twice as many."""
    loss_passes: float
    """Reads and writes of the logits by loss, forward and backward."""
    split_loss_passes: float | None = None
    """The same where tensor parallelism splits the vocabulary, if they differ."""
    optimizer_bytes: float
    """Bytes moved per updated parameter by one optimizer step."""
    host_optimizer_bytes: float | None = None
    """The same on the host for ZeRO stage 3, if its optimizer there is another one."""
    score_elements: float = 0.0
    """Reads and writes per attention score, forward; when scores are materialised."""
    attention_efficiency: Share | None = None
    """Share of the peak that attention kernels reach which store no scores, if not that of matrix products."""
    native_attention: bool = False
    """Whether attention runs kernels written for the card, on cards whose spec knows what these reach."""
    attention_dropout_flops: float = 0.0
    """What dropping a score takes such a kernel, as FLOP of its products, in forward and in backward."""
    host_bytes_per_s: BytesPerSecond = field(name="host_bandwidth", default=BytesPerSecond(float("inf")))
    """Host memory traffic that one process reaches in an optimizer step there, if its share of the host's is more."""
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """Host time to run one layer's forward, its launches included; backward takes twice as long."""
    layer_fixed_s: Seconds = field(name="layer_fixed", default=Seconds(0))
    """Device time of one layer's forward that no shape changes: gaps between kernels, and kernels too small for it."""
    tensor_parallel_host_s: Seconds = field(name="tensor_parallel_host", default=Seconds(0))
    """More of it where tensor parallelism divides the layer."""
    sequence_parallel_host_s: Seconds = field(name="sequence_parallel_host", default=Seconds(0))
    """More of it under sequence parallelism."""
    tensor_host_s: Seconds = field(name="tensor_host", default=Seconds(0))
    """Host time per parameter tensor of an optimizer step without ZeRO; the device's work hides it."""
    zero_layer_host_s: Seconds = field(name="zero_layer_host", default=Seconds(0))
    """More of a layer's where its gradients go into buckets: under ZeRO 1 once a step, under ZeRO 2 every time."""
    zero_gradient_bytes: float = 0.0
    """Bytes moved per parameter of a stage to take gradients into buckets and out of them, under ZeRO 1 and 2."""
    zero_tensor_host_s: Seconds = field(name="zero_tensor_host", default=Seconds(0))
    """Host time per parameter tensor of one optimizer step under ZeRO 1 and 2."""
    overflow_tensor_host_s: Seconds = field(name="overflow_tensor_host", default=Seconds(0))
    """Host time per parameter tensor to look for an overflow before an optimizer step in fp16."""
    gradient_bytes: float = 0.0
    """Bytes moved per parameter of a stage and micro batch to add its gradient to that of the ones before."""
    blocking_launches: bool = False
    """Whether the host waits for every kernel (CUDA_LAUNCH_BLOCKING=1), so that nothing hides its time."""
    slice_collective_s: Seconds = field(name="slice_collective", default=Seconds(0))
    """What a gather or scatter of the slices of sequence parallelism takes beside that of its bytes."""
    collective_s: Seconds = field(name="collective", default=Seconds(0))
    """What ranks of a tensor-parallel all-reduce wait for each other, for each doubling of them."""


class OverlapSpec(Spec, frozen=True, kw_only=True):
    """What communication hides behind computation, as the share of the compute it can use."""

    data_parallel: Fraction
    """Gradient reduction behind backward, without a pipeline."""
    tensor_parallel: Fraction
    """Backward all-reduce of the tensor-parallel input gradient behind the weight gradient."""
    sharded: Fraction = 0.0
    """Gathers and scatters of ZeRO stage 3 behind the computation of layers."""
    pipeline: Fraction = 0.0
    """Sends between stages that computation hides under the interleaved schedule, as a share of them."""
    gathers_hide: bool = True
    """Whether the weights that ZeRO 1 and 2 gather after an update hide as their reduction does, or behind nothing."""
    data_parallel_pipeline: Fraction = 0.0
    """Gradient reduction that computation hides with a pipeline, as a share of it."""


class ShardedSpec(Spec, frozen=True, kw_only=True):
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
    keeps_weights: bool = True
    """Whether a rank's pieces of working weights stay beside its master weights while they are not in use."""
    gradients_reuse_weights: bool = False
    """Whether gradients of a single micro batch take the place of the weights' pieces."""
    step_gradient: float = 0.0
    """Growth of a gradient in the optimizer step, in bytes per parameter of a rank's pieces."""
    collectives_per_unit: float = 1.0
    """Collectives that gather or scatter one piece: tensors by themselves, or the piece at once."""
    link_share: Share = 1.0
    """Share of the links' bandwidth that these collectives reach."""
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
    attention: Literal["flash", "unskipped"] | None = None
    """Attention kernels under ZeRO stage 3, if not those of the stack without it."""
    pads_vocab: bool = True
    """Whether the loss head works on a padded vocabulary under ZeRO stage 3 too."""
    logits_bytes: float | None = None
    """Bytes per logit at the peak of the loss, where ZeRO stage 3 runs another loss."""
    fragmentation: Fraction | None = None
    """Share of the peak that the allocator reserves on top, if not that of the stack."""


class ZeroTrafficSpec(Spec, frozen=True, kw_only=True):
    """Ring steps of data-parallel communication by ZeRO stage: 1 for a reduce-scatter or an all-gather."""

    stage0: float
    stage1: float
    stage2: float
    """One of them gathers the weights; the others follow every micro batch."""
    by_layer: bool = False
    """Whether each layer is reduced and gathered by itself, with the latencies that this takes."""


class ProcessSpec(Spec, frozen=True, kw_only=True):
    """What a process of the stack takes of its device beside tensors, where the card's figures do not tell."""

    context_bytes: Bytes | None = field(name="context", default=None)
    """Taken by a process that communicates with nobody, in place of the card's figure."""
    eager_kernels: bool = False
    """Whether all kernels are loaded with the context, as before CUDA 11.7."""
    communicator_bytes: Bytes | None = field(name="communicator", default=None)
    """Taken by one communicator, in place of the card's figure."""
    cached_bytes: Bytes = field(name="cached", default=Bytes(0))
    """Blocks of the set-up that the allocator still holds on a roomy card and gives back on a full one."""
    workspaces: float = 0.0
    """Workspaces of matrix products among the tensors, each of the size that the card's spec names."""
    flat_step_buffers: bool = False
    """Whether the optimizer step works on flat buffers that no cached block of activations has room for."""
    all_ranks: float = 0.0
    """Communicators over all ranks, where there are several."""
    pipeline: float = 1.0
    """Communicators of pipeline parallelism."""
    data_parallel: float = 1.0
    """Communicators of data parallelism."""
    sharded: float = 0.0
    """Communicators that ZeRO stage 3 opens beside, also on a single rank."""
    tensor_parallel: dict[TensorMode, float] = field(default_factory=dict)
    """Communicators of a tensor mode beyond one for each axis of its grid."""


class ErrorSpec(Spec, frozen=True, kw_only=True):
    """How far predictions were from runs that were measured: means of absolute relative errors."""

    memory: Fraction
    """Of the peak allocated memory of the fullest rank."""
    step_time: float
    runs: Annotated[int, Meta(ge=0)]


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
