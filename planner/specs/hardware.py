"""A device, the node it sits in and the network between nodes."""

import itertools
from typing import Annotated, Literal

from msgspec import Meta, field

from planner.specs.base import Count, Elements, Flops, Fraction, Name, Number, Precision, Share, Spec
from planner.specs.units import Bytes, BytesPerSecond, FlopsPerSecond, Seconds


class TilesSpec(Spec, frozen=True, kw_only=True):
    """How the device cuts a matrix product into tiles, of which each multiprocessor computes one at a time."""

    multiprocessors: Count
    """Of one device."""
    rate: Share
    """Share of the peak that the best tile reaches while every multiprocessor computes one."""
    start_s: Seconds = field(name="start")
    """Time of a product before its first and after its last tile, on the device."""
    shapes: Annotated[tuple[tuple[Count, Count, Share], ...], Meta(min_length=1, max_length=64)]
    """Rows and columns of a tile of the result, and the share of the best tile's rate that it reaches."""
    fill: Elements = 0.0
    """Depth of a product that filling and emptying a multiprocessor's pipeline for one tile is worth."""
    tail: Fraction = 1.0
    """Share of a whole wave that the missing tiles of a last wave still take; 0: a part takes its part."""
    split: Fraction = 0.0
    """How far products of less than a wave are divided along their depth: a power of the part of a wave."""
    droop: Fraction = 0.0
    """Slower by this share for each factor of ten from 1e11 to 1e13 FLOP, as power limits lower the clock. In a step,
    products of every size are slower by twice this share, times the part of a layer's time that is products."""


class EfficiencySpec(Spec, frozen=True, kw_only=True):
    """What the device reaches of its peaks."""

    matmul: Annotated[tuple[tuple[Flops, Share], ...], Meta(min_length=1, max_length=256)]
    """Points ``[FLOP of one matrix product, fraction of the dense peak]``, rising in the first."""
    memory: Share
    """Share of the memory bandwidth that element-wise kernels reach."""
    attention: Share = 1.0
    """What attention kernels written for the generation before keep of their share of the peak."""
    native_attention: tuple[Share, Share] | None = None
    """Share of the peak that attention kernels written for this card reach, forward and backward, with heads of 128
    units and sequences of 2,048 tokens."""
    native_attention_tokens: tuple[Number, Number] = (0, 0)
    """What a sequence takes beside its scores, forward and backward, as of more tokens: short ones reach less."""
    native_attention_small_head: tuple[Share, Share] = (1.0, 1.0)
    """What heads that fill no more than 64 units keep of that share, forward and backward."""
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
        if any(left >= right for left, right in itertools.pairwise(sizes)):
            raise ValueError(f"`matmul` needs points of rising FLOP, and has {sizes}")


class LinkSpec(Spec, frozen=True, kw_only=True):
    """The link between two devices of one node."""

    kind: str
    """What it is, for people."""
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per device."""
    latency_s: Seconds = field(name="latency")
    """Of one message."""
    efficiency: Share
    """Share of the bandwidth that a large collective reaches."""
    start_s: Seconds = field(name="start", default=Seconds(0))
    """Time of an all-reduce beside its ring steps, half of it for a gathering or a scattering."""
    pair_efficiency: Share | None = None
    """The same of a collective over two devices, if it differs."""
    quad_efficiency: Share | None = None
    """The same over four devices of a node of more, if it differs: links of a mesh reach some of the others alone.
    Where it is stated, two devices of a node of up to four share their links evenly with the others."""
    exchange_efficiency: Share | None = None
    """The same of an all-to-all, if it differs."""
    exchange_start_s: Seconds = field(name="exchange_start", default=Seconds(0))
    """Time of a large all-to-all beside that of its bytes."""


class NetworkSpec(Spec, frozen=True, kw_only=True):
    """The network between nodes."""

    kind: str
    """What it is, for people."""
    nics_per_node: Count
    """Network adapters for the devices' own traffic."""
    bandwidth_bytes_per_s: BytesPerSecond = field(name="bandwidth")
    """One-way, per NIC."""
    latency_s: Seconds = field(name="latency")
    """Of one message."""
    efficiency: Share
    """Share of the bandwidth that a large collective reaches."""
    oversubscription: Annotated[float, Meta(ge=1e-3, le=1000.0)]
    """Injection bandwidth of the nodes over the bisection the switches offer; 1 is full."""
    ring_bytes_per_s: BytesPerSecond | None = field(name="ring", default=None)
    """One-way, the most that one collective reaches out of a node, whatever the members it has there, where that was
    measured: a library may use few of the adapters for one ring."""


class HostSpec(Spec, frozen=True, kw_only=True):
    """What the host of one node offers to offloaded states."""

    memory_bytes: Bytes = field(name="memory")
    """All of the node's."""
    memory_bandwidth_bytes_per_s: BytesPerSecond = field(name="memory_bandwidth")
    """All sockets of the node together."""
    device_bandwidth_bytes_per_s: BytesPerSecond = field(name="device_bandwidth")
    """One-way between the host and one device."""
    nvme_capacity_bytes: Bytes = field(name="nvme_capacity")
    """Room on all drives of the node together."""
    nvme_read_bytes_per_s: BytesPerSecond = field(name="nvme_read")
    """All drives of the node together."""
    nvme_write_bytes_per_s: BytesPerSecond = field(name="nvme_write")
    """All drives of the node together."""
    process_bytes: Bytes = field(name="process", default=Bytes(0))
    """Host memory of one rank's process and data loader, beside everything that is offloaded."""


class HardwareSpec(Spec, frozen=True, kw_only=True):
    """A device, the node it sits in and the network between nodes."""

    name: Name
    """What plans and commands call it."""
    title: str
    """For people: the device, and the machine it is in."""
    device: Literal["cuda", "cpu"]
    """The kind of device that PyTorch runs on."""
    device_names: Annotated[tuple[str, ...], Meta(max_length=64)]
    """Parts of the names under which the driver reports this device."""

    # Memory
    memory_bytes: Bytes = field(name="memory")
    """What one process can allocate on an idle device."""
    context_bytes: Bytes = field(name="context")
    """Taken by the driver and the libraries of a process that communicates with nobody."""
    eager_context_bytes: Bytes | None = field(name="eager_context", default=None)
    """The context where every kernel is loaded with it, before CUDA 11.7; by default no more than ``context``."""
    communicator_bytes: Bytes = field(name="communicator")
    """Taken by the communicators of each parallel axis that a process takes part in."""
    workspace_bytes: Bytes = field(name="workspace", default=Bytes(0))
    """One workspace of PyTorch's matrix products."""

    # Speed and number
    memory_bandwidth_bytes_per_s: BytesPerSecond = field(name="memory_bandwidth")
    """Of the device's own memory, reads and writes together."""
    kernel_launch_s: Seconds = field(name="kernel_launch")
    """Host time to issue one kernel: the floor under small layers."""
    devices_per_node: Count
    """How many a node has, unless ``--gpus-per-node`` says otherwise."""
    peak_flops_per_s: dict[Precision, FlopsPerSecond] = field(name="peak")
    """Dense matrix rate by precision."""
    efficiency: EfficiencySpec
    """What of its peaks the device reaches."""

    # Around a device
    node_link: LinkSpec
    """To the other devices of its node."""
    pair_link: LinkSpec | None = None
    """Between devices 0 and 1 of a node, 2 and 3, and so on, where bridges or halves of a board link them in pairs."""
    network: NetworkSpec
    """To the devices of other nodes."""
    host: HostSpec
    """The node's memory and drives."""

    calibrated: bool = False
    """Whether `gptplan calibrate` measured it on the machine that it stands for."""
    sources: dict[str, str]
    """Where each number is from, by its key."""
