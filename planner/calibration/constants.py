"""The constants of a stack that runs can tell: which, within which bounds, and how they are set."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from planner.specs import StackSpec
from planner.specs.units import Seconds


class Constant(NamedTuple):
    """One number of a stack spec. Bounds are what is physically sensible, in the field's own unit."""

    name: str
    """As the spec file has it."""
    table: str
    field: str
    low: float
    high: float
    unit: Callable[[float], float] = float

    def of(self, stack: StackSpec) -> float | None:
        """Its value; ``None`` where the stack has none."""
        value = getattr(getattr(stack, self.table), self.field)
        return None if value is None else float(value)

    def bounds(self, stack: StackSpec) -> tuple[float, float]:
        """Least and largest value that a fit may give it; a stack's own value is never outside of them."""
        own = self.of(stack)
        return (self.low, self.high) if own is None else (min(self.low, own), max(self.high, own))

    def put(self, stack: StackSpec, value: float) -> StackSpec:
        """The stack with another value."""
        table = msgspec.structs.replace(getattr(stack, self.table), **{self.field: self.unit(value)})
        changed: StackSpec = msgspec.structs.replace(stack, **{self.table: table})
        return changed


CONSTANTS = (
    Constant("traffic.layer_host", "traffic", "layer_host_s", 0.0, 5e-3, Seconds),
    Constant("traffic.tensor_parallel_host", "traffic", "tensor_parallel_host_s", 0.0, 3e-3, Seconds),
    Constant("traffic.sequence_parallel_host", "traffic", "sequence_parallel_host_s", 0.0, 3e-3, Seconds),
    Constant("traffic.tensor_host", "traffic", "tensor_host_s", 0.0, 1e-3, Seconds),
    Constant("traffic.zero_layer_host", "traffic", "zero_layer_host_s", 0.0, 3e-3, Seconds),
    Constant("traffic.zero_tensor_host", "traffic", "zero_tensor_host_s", 0.0, 2e-3, Seconds),
    Constant("traffic.slice_collective", "traffic", "slice_collective_s", 0.0, 1e-3, Seconds),
    Constant("traffic.collective", "traffic", "collective_s", 0.0, 1e-3, Seconds),
    Constant("traffic.sharded_elements", "traffic", "sharded_elements", 4.0, 60.0),
    Constant("traffic.score_elements", "traffic", "score_elements", 0.0, 20.0),
    Constant("traffic.loss_passes", "traffic", "loss_passes", 2.0, 60.0),
    Constant("traffic.optimizer_bytes", "traffic", "optimizer_bytes", 12.0, 120.0),
    Constant("traffic.attention_efficiency", "traffic", "attention_efficiency", 0.05, 1.0),
    Constant("overlap.data_parallel", "overlap", "data_parallel", 0.0, 1.0),
    Constant("overlap.tensor_parallel", "overlap", "tensor_parallel", 0.0, 1.0),
    Constant("overlap.pipeline", "overlap", "pipeline", 0.0, 1.0),
    Constant("overlap.data_parallel_pipeline", "overlap", "data_parallel_pipeline", 0.0, 1.0),
    Constant("sharded.layer_host", "sharded", "layer_host_s", 0.0, 10e-3, Seconds),
)
"""Step-time constants that differ from machine to machine and from version to version of a stack."""
