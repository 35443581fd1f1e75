"""What a row of a table becomes: a case to replay, or a reason why it cannot be."""

from dataclasses import dataclass, field
from typing import Literal

from planner.layouts.layout import Layout
from planner.layouts.problem import Problem

MemoryKind = Literal["allocated", "reserved", "device"]
"""What a reading counts: live tensors, what PyTorch's allocator holds, or what the driver reports in use."""
MEMORY_KINDS: tuple[MemoryKind, ...] = ("allocated", "reserved", "device")


class SkippedRow(Exception):  # noqa: N818 - no error: a row that says why it is left out
    """Raised by a mapper for a row that cannot be replayed; its text is the reason."""


StageRead = Literal["fullest", "first", "last"]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a row measured; ``None`` and empty where it states nothing."""

    step_s: float | None
    memory_bytes: dict[MemoryKind, float]
    """By kind of reading."""
    stage: StageRead = "fullest"
    """The pipeline stage whose memory was read."""
    outcome: str
    """``fit`` or ``oom``."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One measured run with everything that its replay needs."""

    problem: Problem
    layout: Layout
    measured: Measured
    assumptions: tuple[str, ...]
    """What the row does not state and how it was filled."""


@dataclass
class Assumptions:
    """Collects how the blanks of one row were filled."""

    stated: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add one, once."""
        if text not in self.stated:
            self.stated.append(text)
