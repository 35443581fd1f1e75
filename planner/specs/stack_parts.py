"""How a stack runs the parts of a block: what it fuses, what it keeps for backward, what its kernels move."""

from typing import Annotated

from msgspec import Meta, field

from planner.specs.base import Elements, Number, Spec
from planner.specs.units import Seconds

Moved = tuple[Elements, Elements]
"""Reads and writes of forward and of backward."""


class PartsSpec(Spec, frozen=True, kw_only=True):
    """How a library makes the parts of a block; the defaults are kernels that are fused as far as is usual.

    A stack's counts of whole blocks (``activations``, ``traffic``) are of GPT-2's parts. Blocks with other parts are
    the sum of theirs.
    """

    # Products
    fused_qkv: bool = True
    """Whether queries, keys and values are one product; else three, each with collectives of its own."""
    fused_gate: bool = True
    """Whether the two products of a gated feed-forward part that read the same input are one."""

    shared_inputs: bool = False
    """Whether sequence parallelism gathers the input of several products of a part once; else once for each."""

    # Kept for backward
    repeated_keys: bool = False
    """Whether keys and values are kept once for each query head."""
    contiguous_attention: bool = False
    """Whether attention's kernel is given contiguous heads: its output is copied back to tokens, and kept twice."""
    queries_in_stack: bool = False
    """Whether queries stay part of one tensor with keys and values, of which attention reads copies, if not grouped."""
    norm_kept: Elements = 0.0
    """Kept by a norm beside its input and its output, per hidden unit, in fp16 and bf16."""
    norm_kept_full: Elements = 0.0
    """The same in fp32."""
    gated_kept: Elements = 4.0
    """Kept by a gated feed-forward part per unit of its width: both products, the activated one and the result."""

    # Element-wise kernels
    norm_elements: Moved = (2.0, 4.0)
    """Moved by a norm per hidden unit."""
    residual_elements: Moved = (3.0, 2.0)
    """Moved by the addition to the residual stream, per hidden unit."""
    summed_gradients: Elements = 0.0
    """Moved in backward by adding the gradients of two products of one input, per hidden unit."""
    layout_elements: Moved = (0.0, 0.0)
    """Moved by copies of queries, keys and values to another layout, per unit of theirs."""
    repeat_elements: Moved = (2.0, 2.0)
    """Moved by the repetition of keys or of values for each query head, per unit of theirs and of the queries."""
    rotary_elements: Moved = (2.0, 2.0)
    """Moved by the rotation of queries and keys, per unit of theirs."""
    activation_elements: Moved = (2.0, 3.0)
    """Moved by a plain activation per unit of its width."""
    gated_elements: Moved = (5.0, 8.0)
    """Moved by a gated activation per unit of its width."""

    # Working set and host
    backward_gated: Elements = 4.0
    """Gradients at the peak of a gated feed-forward part's backward, per unit of its width."""
    backward_attention: Elements = 2.0
    """Gradients at the peak of attention's backward, per unit of queries, keys, values and output."""
    kernels: Number = 14.0
    """Kernels issued for a block's forward beside its products."""
    layer_host_s: Seconds = field(name="layer_host", default=Seconds(0))
    """Host time of one such block's forward, its launches included; 0: as ``traffic`` has it."""
    head_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 1.0
    """Share of their rate that attention kernels keep with heads of 64 units and less; they are known for 128."""
