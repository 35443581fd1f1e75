"""What the solver can show for its answer, in the form a plan keeps."""

import msgspec

BY_HAND = "by-hand"
"""Status of a layout that a person wrote: nothing was chosen, and the bound is that of the best layout found."""


class Space(msgspec.Struct, frozen=True, kw_only=True):
    """How many layouts were looked at, and what became of them."""

    layouts: int
    valid: int
    fit: int
    rejected: dict[str, int]
    """Rule id to the layouts it rejects; one layout may break several rules."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the solver proved, in seconds (objective step-time) or bytes (objective memory)."""

    status: str
    objective: float
    bound: float
    gap: float
    space: Space
    bounded_out: int
    """Fitting layouts left out of the exact model because their lower bound exceeds the best."""
    lowest_bounded_out: float | None
    """The least of those lower bounds; ``None`` when nothing was left out."""
    ortools_version: str
