"""What the ranks of a calibration measure, as they hand it over."""

from typing import Literal

import msgspec

from planner.specs import Precision

CollectiveKind = Literal["all-reduce", "all-gather", "send"]


class Product(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix product ``[m, k] x [k, n]``."""

    precision: Precision
    m: int
    k: int
    n: int
    seconds: float

    @property
    def flops(self) -> float:
        """Floating-point operations; a multiply-add counts 2."""
        return 2.0 * self.m * self.k * self.n

    @property
    def flops_per_s(self) -> float:
        """The rate that it ran at."""
        return self.flops / self.seconds


class Collective(msgspec.Struct, frozen=True, kw_only=True):
    """One collective over ``size`` ranks; ``num_bytes`` is the whole tensor, or the message of a send."""

    kind: CollectiveKind
    size: int
    num_bytes: int
    seconds: float


class DeviceMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of an accelerator, in bytes."""

    total_bytes: int
    context_bytes: int
    """Taken by a process that communicates with nobody, beside tensors."""
    communicator_bytes: int | None
    """More of it after the first communicator; ``None`` with one device."""


class AttentionRates(msgspec.Struct, frozen=True, kw_only=True):
    """Causal attention with 128 units a head, at the precision of the curve; only scores that are computed count."""

    forward_flops_per_s: float
    backward_flops_per_s: float


class Measurements(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one calibration found. Rates are those of one device while all work, unless they say otherwise."""

    device: Literal["cuda", "cpu"]
    device_name: str
    torch_version: str
    num_devices: int
    threads_per_process: int
    products: tuple[Product, ...]
    attention: AttentionRates | None = None
    """``None`` on a CPU, and on an accelerator without bf16."""
    memory_bytes_per_s: float
    """Reads and writes of an element-wise kernel."""
    kernel_launch_s: float
    gpt2_block_s: float
    """Time in which the host issues forward and backward of a tiny block of Hugging Face's GPT-2."""
    collectives: tuple[Collective, ...]
    """Empty with one device."""
    device_memory: DeviceMemory | None
    """``None`` on a CPU."""
    host_memory_bytes: int
    host_copy_bytes_per_s: float
    """Reads and writes of copies in host memory, all processes together."""
    adam_parameters_per_s: float
    """Parameters that AdamW in fp32 updates on the host, all processes together."""
    adam: str
    """Which implementation that is."""
    pinned_bytes_per_s: float
    """Between the host and one device, one way, the slower direction; page-locked host memory."""
    pageable_bytes_per_s: float
    """The same with ordinary host memory."""
    disk_free_bytes: int
    disk_read_bytes_per_s: float
    """All processes of the node together."""
    disk_write_bytes_per_s: float
    """The same, until the file is on the drive."""
    seconds: float
    """How long it all took."""
