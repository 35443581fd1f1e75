"""What every spec is built from: the base of its structs, bounded numbers, and the words of a layout."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Precision = Literal["fp16", "bf16", "fp32"]
TensorMode = Literal["none", "1d", "2d", "2.5d", "3d"]
Schedule = Literal["none", "1f1b", "interleaved"]
OffloadTier = Literal["none", "cpu", "nvme"]

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A spec's name; it becomes part of file names."""
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Share = Annotated[float, Meta(gt=0.0, le=1.0)]
"""A fraction that something is divided by."""
Positive = Annotated[float, Meta(gt=0.0)]

ELEMENT_BYTES: dict[str, int] = {"fp16": 2, "bf16": 2, "fp32": 4}
"""Bytes of one element of a weight or activation, by precision."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every struct that a spec file decodes to: unknown keys are refused."""
