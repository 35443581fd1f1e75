"""What every spec is built from: the base of its structs, bounded numbers, units, and the words of a layout."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Precision = Literal["fp16", "bf16", "fp32"]
TensorMode = Literal["none", "1d", "2d", "2.5d", "3d"]
Schedule = Literal["none", "1f1b", "interleaved", "zbv"]
OffloadTier = Literal["none", "cpu", "nvme"]

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A spec's name; it becomes part of file names."""
# Numbers. Beyond these bounds nothing is planned, and no product of a few of them overflows.
Count = Annotated[int, Meta(ge=1, le=131_072)]
Layers = Annotated[int, Meta(ge=1, le=1_024)]
Width = Annotated[int, Meta(ge=1, le=1_048_576)]
"""Of a dimension of weights or activations, and tokens of a sequence or vocabulary."""
Batch = Annotated[int, Meta(ge=1, le=16_777_216)]
Parameters = Annotated[int, Meta(ge=0, le=10**15)]
Fraction = Annotated[float, Meta(ge=0.0, le=1.0)]
Share = Annotated[float, Meta(ge=1e-9, le=1.0)]
"""A fraction that something is divided by."""
Positive = Annotated[float, Meta(ge=1e-15, le=1e12)]
Flops = Annotated[float, Meta(gt=0.0, le=1e24)]
Error = Annotated[float, Meta(ge=0.0, le=1000.0)]
"""A mean relative error."""

# Units of plain numbers; quantities that a file writes with a unit are in planner.specs.units.
MOST = 10_000.0
Elements = Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "elements"})]
FloatBytes = Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "bytes"})]
"""Bytes of something small, such as of one logit."""
PerParameter = Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "bytes per parameter"})]
Passes = Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "reads and writes"})]
Number = Annotated[float, Meta(ge=0.0, le=MOST, extra={"unit": "number"})]
"""How many, on average; need not be whole."""

ELEMENT_BYTES: dict[str, int] = {"fp16": 2, "bf16": 2, "fp32": 4}
"""Bytes of one element of a weight or activation, by precision."""


class Spec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of every struct that a spec file decodes to: unknown keys are refused.

    An attribute carries its unit. The key in a file is its name, without the unit where the file's value has one.
    The docstring under a field, and the comment over a group of them, are what docs/specs.md says of it; JSON output
    has the fields in their order here.
    """
