"""What a step of a stack takes: memory traffic, host times, ring steps, and what communication hides behind."""

from typing import Annotated

from msgspec import Meta, field

from planner.specs.base import MOST, Elements, FloatBytes, Fraction, Number, Passes, Share, Spec
from planner.specs.units import BytesPerSecond, Seconds


class TrafficSpec(Spec, frozen=True, kw_only=True):
    """Memory traffic of a step's work that is no matrix product, and what the host takes for it.

    Elements are per token and hidden unit of a layer's forward, reads plus writes.
    """

    # Element-wise kernels of a layer
    replicated_elements: Elements
    """Moved by every tensor-parallel rank."""
    sharded_elements: Elements
    """Moved in parts by the tensor-parallel ranks."""
    backward_replicated_elements: Elements | None = None
    """Moved by every rank in backward, if not twice what forward moves."""
    backward_sharded_elements: Elements | None = None
    """Moved in parts in backward, if not twice what forward moves."""
    recompute_stops_early: bool = False
    """Whether the second forward of a layer ends with the last tensor that backward needs, before its last product."""
    dropout_elements: Elements = 0.0
    """More of the replicated elements, in forward and in backward, where the model drops activations."""
    bias_passes: Passes = 0.0
    """Reads and writes of each output of the products, where tensor parallelism adds biases by kernels of their own."""
    grid_elements: Elements = 0.0
    """More of the sharded elements in a 2D, 2.5D or 3D grid, forward; backward twice as many."""

    # Kernels, loss and optimizer
    product_share: Share = 1.0
    """Share of the card's rate of products that the stack reaches on the machines that it was measured on."""
    kernels: Number
    """Kernels issued per layer in forward; backward issues twice as many."""
    loss_passes: Passes
    """Reads and writes of the logits by loss, forward and backward."""
    split_loss_passes: Passes | None = None
    """Passes of the loss where tensor parallelism splits the vocabulary, if they differ."""
    optimizer_bytes: FloatBytes
    """Bytes moved per updated parameter by one optimizer step."""
    host_optimizer_bytes: FloatBytes | None = None
    """Bytes moved per updated parameter on the host under ZeRO stage 3, if its optimizer there is another one."""

    # Attention
    score_elements: Elements = 0.0
    """Reads and writes per attention score, forward; when scores are materialised."""
    attention_efficiency: Share | None = None
    """Share of the peak that attention kernels reach which store no scores, if not that of matrix products."""
    native_attention: bool = False
    """Whether attention runs kernels written for the card, on cards whose spec knows what these reach."""
    attention_dropout_flops: Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "FLOP"})] = 0.0
    """What dropping a score takes such a kernel, as FLOP of its products, in forward and in backward."""

    # Host, gaps and gradients
    host_bandwidth_bytes_per_s: BytesPerSecond = field(name="host_bandwidth", default=BytesPerSecond(float("inf")))
    """Host memory traffic that one process reaches in an optimizer step there, if its share of the host's is more."""
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """Host time to run one layer's forward, its launches included; backward takes twice as long."""
    layer_fixed_s: Seconds = field(name="layer_fixed", default=Seconds(0))
    """Device time of one layer's forward that no shape changes: gaps between kernels, and kernels too small for it."""
    tensor_parallel_host_s: Seconds = field(name="tensor_parallel_host", default=Seconds(0))
    """More of a layer's host time where tensor parallelism divides the layer."""
    sequence_parallel_host_s: Seconds = field(name="sequence_parallel_host", default=Seconds(0))
    """More of a layer's host time under sequence parallelism."""
    tensor_host_s: Seconds = field(name="tensor_host", default=Seconds(0))
    """Host time per parameter tensor of an optimizer step without ZeRO; the device's work hides it."""
    zero_layer_host_s: Seconds = field(name="zero_layer_host", default=Seconds(0))
    """More of a layer's host time with its gradients in buckets: once a step under ZeRO 1, every time under ZeRO 2."""
    zero_gradient_bytes: FloatBytes = 0.0
    """Bytes moved per parameter of a stage to take gradients into buckets and out of them, under ZeRO 1 and 2."""
    zero_tensor_host_s: Seconds = field(name="zero_tensor_host", default=Seconds(0))
    """Host time per parameter tensor of one optimizer step under ZeRO 1 and 2."""
    overflow_tensor_host_s: Seconds = field(name="overflow_tensor_host", default=Seconds(0))
    """Host time per parameter tensor to look for an overflow before an optimizer step in fp16."""
    gradient_bytes: FloatBytes = 0.0
    """Bytes moved per parameter of a stage and micro batch to add its gradient to that of the ones before."""
    outside_host_s: Seconds = field(name="outside_host", default=Seconds(0))
    """Host time of a micro batch outside of its layers; 0: not known, and the device waits layer by layer."""
    message_host_s: Seconds = field(name="message_host", default=Seconds(0))
    """What a tensor sent between stages keeps the hosts of both from going on, whatever its size."""
    message_tensors: Number = 2.0
    """Tensors that a stage sends on for a micro batch and that come back for it, together."""
    blocking_launches: bool = False
    """Whether the host waits for every kernel (CUDA_LAUNCH_BLOCKING=1), so that nothing hides its time."""

    # Waits in collectives
    slice_collective_s: Seconds = field(name="slice_collective", default=Seconds(0))
    """What a gather or scatter of the slices of sequence parallelism takes beside that of its bytes."""
    collective_rank_host_s: Seconds = field(name="collective_rank_host", default=Seconds(0))
    """What hosts wait for each other before any collective, for each rank of its group on the node of the first."""
    collective_far_rank_host_s: Seconds = field(name="collective_far_rank_host", default=Seconds(0))
    """The same for each rank on another node."""
    host_spread: Fraction = 0.0
    """Share by which the slowest host of a tensor-parallel group takes longer than the others."""
    collective_s: Seconds = field(name="collective", default=Seconds(0))
    """What ranks of a tensor-parallel all-reduce wait for each other, for each doubling of them."""


class OverlapSpec(Spec, frozen=True, kw_only=True):
    """What communication hides behind computation, as the share of the compute it can use."""

    data_parallel: Fraction
    """Gradient reduction behind backward, without a pipeline."""
    behind_collectives: bool = False
    """Whether it hides behind backward's collectives of tensor parallelism inside a node as behind its computation."""
    tensor_parallel: Fraction
    """Backward all-reduce of the tensor-parallel input gradient behind the weight gradient."""
    far_slices: Fraction = 0.0
    """Collectives of slices between nodes, each behind the product that is issued beside it, as a share of that."""
    sharded: Fraction = 0.0
    """Gathers and scatters of ZeRO stage 3 behind the computation of layers."""
    pipeline: Fraction = 0.0
    """Sends between stages that computation hides under the interleaved schedule, as a share of them."""
    zero_hides: bool = True
    """Whether the reduction of ZeRO 1 and 2 hides as that without ZeRO does, or behind nothing."""
    gathers_hide: bool = True
    """Whether the weights that ZeRO 1 and 2 gather after an update hide as their reduction does, or behind nothing."""
    data_parallel_pipeline: Fraction = 0.0
    """Gradient reduction that computation hides with a pipeline, as a share of it."""


class ZeroTrafficSpec(Spec, frozen=True, kw_only=True):
    """Ring steps of data-parallel communication by ZeRO stage: 1 for a reduce-scatter or an all-gather."""

    stage0: Number
    """Without ZeRO, once a step."""
    stage1: Number
    """ZeRO stage 1, once a step."""
    stage2: Number
    """ZeRO stage 2: one of them gathers the weights; the others follow every micro batch."""
    by_layer: bool = False
    """Whether each layer is reduced and gathered by itself, with the latencies that this takes."""
