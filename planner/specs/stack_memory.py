"""What a stack keeps in memory: training states, activations, pieces of ZeRO stage 3, a process beside its tensors."""

from typing import Annotated, Literal

from msgspec import Meta, field

from planner.specs.base import Elements, FloatBytes, Fraction, Number, Parameters, PerParameter, Share, Spec, TensorMode
from planner.specs.units import Bytes, BytesPerSecond, Seconds

Attention = Literal["flash", "unskipped", "materialised", "recomputed"]


class StateBytesSpec(Spec, frozen=True, kw_only=True):
    """Bytes that one parameter costs in each training state."""

    weight: PerParameter
    """Of the working weights."""
    gradient: PerParameter
    """Of the gradients."""
    master: PerParameter
    """Of the full-precision copy of the weights that the optimizer updates; 0: there is none."""
    moments: PerParameter
    """Of the optimizer's two moments."""

    # Copies and buffers
    step_gradient: PerParameter
    """Growth of the gradient in the optimizer step, where it is turned to full precision."""
    zero_step_gradient: PerParameter
    """Growth of the gradient in the optimizer step under ZeRO, per parameter of the local shard."""
    ddp_bucket: PerParameter
    """Gradient buckets of torch DDP, which wraps layouts without ZeRO and pipeline."""
    zero_step_copy: PerParameter = 0.0
    """Copies of gradients in the optimizer step of ZeRO 1 and 2, per parameter of the whole stage."""
    gradient_buffer: PerParameter = 0.0
    """Of the gradients, what lies in buffers that exist before the first of them is made."""
    tensor_cast: PerParameter = 0.0
    """The copy through which the gradient of one weight at a time accumulates, per parameter of the largest."""


class ActivationSpec(Spec, frozen=True, kw_only=True):
    """What a transformer layer keeps for backward, in elements per token and hidden unit.

    ``replicated`` tensors exist on every tensor-parallel rank, ``sharded`` ones are divided.
    """

    # Kept by a layer
    replicated_elements: Elements
    """Kept of each layer on every tensor-parallel rank, per token and hidden unit."""
    sharded_elements: Elements
    """Kept of each layer and divided over tensor-parallel ranks, per token and hidden unit."""
    dropout_mask_bytes: FloatBytes
    """Bytes per token and hidden unit, replicated, kept when dropout is on."""

    # Attention
    attention: Attention
    """``flash`` and ``unskipped`` keep no scores; only ``flash`` skips the masked half of them.
    ``materialised`` keeps scores, ``recomputed`` makes them again in backward (selective recomputation).
    """
    score_elements: Elements
    """Elements kept per attention score when scores are materialised."""
    score_mask_bytes: FloatBytes
    """Per attention score, kept when scores are materialised and dropout is on."""
    softmax_bytes: FloatBytes = 0.0
    """Per token and head, kept by attention that stores no scores: the logarithm of each softmax's sum."""

    # Stage outputs and logits
    pipeline_elements: Elements
    """Hidden states that each micro batch in flight holds beside its layers: the stage's output."""
    logits_mixed_bytes: FloatBytes
    """Bytes per logit alive at the peak of the loss, in fp16 and bf16, without tensor parallelism."""
    logits_full_bytes: FloatBytes
    """Bytes per logit alive at the peak of the loss, in fp32, without tensor parallelism."""
    split_logits_mixed_bytes: FloatBytes
    """Bytes per logit of a rank in fp16 and bf16, where tensor parallelism splits the vocabulary."""
    split_logits_full_bytes: FloatBytes
    """Bytes per logit of a rank in fp32, where tensor parallelism splits the vocabulary."""
    grid_logits_mixed_bytes: FloatBytes = 8.0
    """Bytes per logit of a rank in fp16 and bf16, where a 2D, 2.5D or 3D grid divides the logits."""
    grid_logits_full_bytes: FloatBytes = 12.0
    """Bytes per logit of a rank in fp32, where a 2D, 2.5D or 3D grid divides the logits."""

    # What only some stacks keep
    loss_chunk_tokens: Parameters = 0
    """Tokens whose logits are in memory at once, beside the gradients of states and weight of the head that they
    add to; 0: those of all tokens of a micro batch."""
    mask_elements: Elements = 0.0
    """Elements per pair of positions of the attention mask that each sequence in flight keeps."""
    gathered_elements: Elements = 0.0
    """Gathered inputs that sequence parallelism keeps beside a rank's slices; without them backward gathers again."""
    gather_buffers: Number = 0.0
    """Buffers of a whole hidden state that gathers of sequence parallelism share, beside what layers keep."""
    gathered_outlive_backward: bool = False
    """Whether gathered inputs stay after a layer's backward, until the next micro batch's forward has ended."""
    pipeline_divided: bool = False
    """Whether the ranks of a tensor-parallel group hold their own part of a stage's output only."""
    pipeline_extra_microbatches: Number = 0.0
    """Micro batches beyond those of its schedule whose outputs each stage but the last keeps."""
    causal_buffer_bytes: FloatBytes = 0.0
    """Bytes per pair of positions of a causal mask that each layer owns."""

    # Backward of a layer
    backward_elements: Elements = 0.0
    """Gradients of activations at the peak of a layer's backward, sharded elements per token and hidden unit."""
    backward_replicated_elements: Elements = 0.0
    """Gradients of activations at that peak that every tensor-parallel rank has whole."""


class ShardedSpec(Spec, frozen=True, kw_only=True):
    """How ZeRO stage 3 keeps weights in pieces, and what gathering them for use takes.

    The defaults are the plain scheme: pieces are layers, gathered one at a time before forward and
    backward, whose gradients are scattered at once.
    """

    # Size of a piece
    unit_parameters: Parameters = 0
    """The least parameters of a piece, which holds whole tensors; a model below it is not sharded. 0: a layer."""
    unit_search_parameters: Parameters = 0
    """How much larger a piece may become so that tensors fill pieces with little waste."""
    unit_at_most_layer: bool = False
    """Whether a piece need be no larger than a layer's matrices, its size searched by hidden sizes."""

    with_tensor: bool = False
    """Whether it goes with tensor parallelism."""

    # In a layer and its update
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """More host time for one layer's forward than without ZeRO stage 3."""
    live_units: Number = 1.0
    """Gathered pieces on the device at once: the one in use and those gathered ahead."""
    gradient_units: Number = 1.0
    """Pieces of unscattered gradients on the device at once."""
    keeps_weights: bool = True
    """Whether a rank's pieces of working weights stay beside its master weights while they are not in use."""
    gradients_reuse_weights: bool = False
    """Whether gradients of a single micro batch take the place of the weights' pieces."""
    step_gradient: PerParameter = 0.0
    """Growth of a gradient in the optimizer step, in bytes per parameter of a rank's pieces."""

    # Collectives
    collectives_per_unit: Number = 1.0
    """Collectives that gather or scatter one piece: tensors by themselves, or the piece at once."""
    link_share: Share = 1.0
    """Share of the links' bandwidth that these collectives reach."""
    gathers: Number = 2.0
    """Gatherings of all weights per micro batch."""
    recompute_gathers: Number = 0.0
    """Further gatherings of a layer that recomputes."""
    scatters: Number = 1.0
    """Scatterings of all gradients per micro batch."""

    copied_bytes: FloatBytes = 0.0
    """Bytes moved per parameter and micro batch by copies out of what is gathered and into what is scattered."""

    other_stream: PerParameter = 0.0
    """Bytes per parameter of a rank's pieces that lie in blocks of one stream in forward and of another in backward,
    with several ranks: the allocator keeps both."""

    # Copies on the host
    pinned_weight: PerParameter = 0.0
    """Pinned host bytes per parameter of a rank's pieces of weights, whatever is offloaded."""
    pinned_master: PerParameter = 0.0
    """Pinned host bytes per parameter of a rank's pieces of master weights, whatever is offloaded."""
    pinned_blocks: bool = False
    """Whether pinned pieces are rounded up to powers of two."""
    copy_bandwidth_bytes_per_s: BytesPerSecond = field(name="copy_bandwidth", default=BytesPerSecond(float("inf")))
    """The rate at which pieces move between device and host, one way, if the host link is not slower."""

    # In place of what the stack does without it
    attention: Literal["flash", "unskipped"] | None = None
    """Attention kernels under ZeRO stage 3, if not those of the stack without it."""
    pads_vocab: bool = True
    """Whether the loss head works on a padded vocabulary under ZeRO stage 3 too."""
    logits_bytes: FloatBytes | None = None
    """Bytes per logit at the peak of the loss, where ZeRO stage 3 runs another loss."""
    fragmentation: Fraction | None = None
    """Share of the peak that the allocator reserves on top, if not that of the stack."""


class ProcessSpec(Spec, frozen=True, kw_only=True):
    """What a process of the stack takes of its device beside tensors, where the card's figures do not tell."""

    # Context and allocator
    context_bytes: Bytes | None = field(name="context", default=None)
    """Taken by a process that communicates with nobody, in place of the card's figure."""
    eager_kernels: bool = False
    """Whether all kernels are loaded with the context, as before CUDA 11.7."""
    communicator_bytes: Bytes | None = field(name="communicator", default=None)
    """Taken by one communicator, in place of the card's figure."""
    cached_bytes: Bytes = field(name="cached", default=Bytes(0))
    """Blocks of the set-up that the allocator still holds on a roomy card and gives back on a full one."""
    workspaces: Number = 0.0
    """Workspaces of matrix products among the tensors, each of the size that the card's spec names."""
    held_launches: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Kernels by which the host may run ahead of the device while collectives of tensor parallelism still hold their
    blocks, which the allocator reserves anew until they end; 0: collectives hold none."""
    flat_step_buffers: bool = False
    """Whether the optimizer step works on flat buffers that no cached block of activations has room for."""
    moments_in_blocks: bool = False
    """Whether moments are made in the first step, in blocks of its activations, whose place is then in flat buffers."""

    # Number of communicators
    all_ranks: Number = 0.0
    """Communicators over all ranks, where there are several."""
    pipeline: Number = 1.0
    """Communicators of pipeline parallelism."""
    data_parallel: Number = 1.0
    """Communicators of data parallelism."""
    sharded: Number = 0.0
    """Communicators that ZeRO stage 3 opens beside, also on a single rank."""
    tensor_parallel: dict[TensorMode, Number] = field(default_factory=dict)
    """Communicators of a tensor mode beyond one for each axis of its grid."""
