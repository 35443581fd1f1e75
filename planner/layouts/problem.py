"""The question a plan answers: specs, device count, batch and what the user fixed or forbade."""

from functools import cached_property
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from planner.specs import HardwareSpec, ModelSpec, OffloadTier, Precision, StackSpec
from planner.specs.units import Bytes

Objective = Literal["step-time", "memory"]
MAX_DEVICES = 131_072
"""Device counts beyond this are taken for a typing error."""
MAX_GLOBAL_BATCH = 16_777_216
MAX_SEQ_LEN = 1_000_000_000


class Reserve(msgspec.Struct, frozen=True, kw_only=True):
    """Device memory to leave free, as the user stated it: an amount or a share of the card."""

    num_bytes: Bytes = Bytes(0)
    fraction: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0


class Problem(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Everything that decides the answer; the same problem gives the same plan."""

    model: ModelSpec
    hardware: HardwareSpec
    stack: StackSpec
    num_devices: Annotated[int, Meta(ge=1, le=MAX_DEVICES)]
    devices_per_node: Annotated[int, Meta(ge=1, le=MAX_DEVICES)]
    global_batch: Annotated[int, Meta(ge=1, le=MAX_GLOBAL_BATCH)]
    """Sequences of one optimizer step over all devices."""
    seq_len: Annotated[int, Meta(ge=1, le=MAX_SEQ_LEN)]
    """Tokens of one sequence."""
    precision: Precision
    objective: Objective = "step-time"
    allow_offload: OffloadTier = "none"
    reserve: Reserve | None = None
    """``None`` reserves what the hardware and stack specs name, and room for the error of a prediction."""
    confidence: Annotated[float, Meta(ge=0.0, lt=1.0)] | None = None
    """Least probability that every stage fits; ``None`` asks for the usual one where no reserve is stated."""
    compiled: bool = False
    """Whether blocks and loss are compiled, in the layouts of which the stack compiles them."""
    pins: dict[str, str] = {}
    """Layout field to the only value it may take, both as typed."""
    forbids: dict[str, tuple[str, ...]] = {}
    """Layout field to the values it may not take."""

    @property
    def specs(self) -> dict[str, ModelSpec | HardwareSpec | StackSpec]:
        """The specs by their kind."""
        return {"model": self.model, "hardware": self.hardware, "stack": self.stack}

    @property
    def asked(self) -> dict[str, Any]:
        """Everything else, by field."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if name not in self.specs}

    @cached_property
    def with_compiled_counts(self) -> "Problem":
        """The same with the stack's counts of compiled blocks in the place of its own."""
        return msgspec.structs.replace(self, compiled=False, stack=self.stack.as_compiled())

    @property
    def num_nodes(self) -> int:
        """Nodes that the devices fill, the last one perhaps in part."""
        return -(-self.num_devices // self.devices_per_node)
