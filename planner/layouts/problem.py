"""The question a plan answers: specs, device count, batch and what the user fixed or forbade."""

from typing import Literal

import msgspec

from planner.specs import HardwareSpec, ModelSpec, OffloadTier, Precision, StackSpec
from planner.specs.units import Bytes

Objective = Literal["step-time", "memory"]


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """Device memory to leave free, as the user stated it: an amount or a share of the card."""

    num_bytes: Bytes = Bytes(0)
    fraction: float = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides the answer; the same problem gives the same plan."""

    model: ModelSpec
    hardware: HardwareSpec
    stack: StackSpec
    num_devices: int
    devices_per_node: int
    global_batch: int
    """Sequences of one optimizer step over all devices."""
    seq_len: int
    """Tokens of one sequence."""
    precision: Precision
    objective: Objective = "step-time"
    allow_offload: OffloadTier = "none"
    reserve: Reserve | None = None
    """``None`` reserves what the hardware and stack specs name."""
    pins: dict[str, str] = {}
    """Layout field to the only value it may take, both as typed."""
    forbids: dict[str, tuple[str, ...]] = {}
    """Layout field to the values it may not take."""

    @property
    def num_nodes(self) -> int:
        """Nodes that the devices fill, the last one perhaps in part."""
        return -(-self.num_devices // self.devices_per_node)
