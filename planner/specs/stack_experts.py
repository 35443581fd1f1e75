"""How a stack divides and runs the experts of a model."""

from typing import Annotated

from msgspec import Meta, field

from planner.specs.base import Elements, Fraction, Number, Share, Spec
from planner.specs.model import Family
from planner.specs.units import Seconds

Moved = tuple[Elements, Elements]
"""Reads and writes of forward and of backward."""


class StackExpertsSpec(Spec, frozen=True, kw_only=True):
    """Experts of a layer: which ranks hold them, how tokens reach them, how their products run."""

    # What it executes
    families: Annotated[tuple[Family, ...], Meta(max_length=16)] = ()
    """Families of models whose experts ranks can divide among them."""
    zero_stages: Annotated[tuple[Annotated[int, Meta(ge=0, le=3)], ...], Meta(max_length=4)] = ()
    """ZeRO stages that go with that."""
    by_tensor: bool = True
    """Whether tensor-parallel ranks divide each expert and work on the same tokens; else ranks of that group hold
    experts of their own, whole, and each sends the tokens of its slice of the sequence."""
    by_count: bool = False
    """Whether the tensor-parallel degree has to divide the number of experts too."""
    copies: bool = True
    """Whether several groups of ranks may hold the same experts."""
    balance_loss_in_pipeline: bool = True
    """Whether the loss that balances loads reaches the routers of all stages of a pipeline."""
    sums_counts: bool = False
    """Whether every layer adds up over copies how many tokens an expert got."""
    needs_slices: bool = False
    """Whether tensor parallelism has to divide the sequence too."""

    # Products
    grouped: bool = True
    """Whether the products of all experts of a rank are one kernel; else one after the other."""
    by_sender: bool = False
    """Whether the tokens of every rank that sends some have products of their own, where a rank has several experts."""
    product_share: Share = 1.0
    """Share of the card's rate that these products reach."""

    # Dispatch
    dispatch_elements: Moved = (6.0, 6.0)
    """Moved to sort tokens by expert, and back with their weights, per hidden unit of each token and expert of it."""
    dispatch_kept: Elements = 2.0
    """Kept for backward beside what the products of an expert keep, per hidden unit of a token and expert of it."""
    dispatch_working: Elements = 2.0
    """Taken while tokens are sorted and sent, per hidden unit of a token and expert of it."""
    kernels: Number = 20.0
    """Kernels issued for router, sorting and sending in a layer's forward."""
    expert_kernels: Number = 0.0
    """More of them for each expert of a rank, beside its products."""
    kernel_host_s: Seconds = field(name="kernel_host", default=Seconds(0))
    """Host time of one of these kernels, its launch included."""
    syncs: Number = 0.0
    """Times in a layer's forward that the host waits for the device, to learn how many tokens come."""
    sync_s: Seconds = field(name="sync", default=Seconds(0))
    """What one of them takes beyond the work that it waits for."""
    overlap: Fraction = 0.0
    """Share of the all-to-alls that other work hides."""
