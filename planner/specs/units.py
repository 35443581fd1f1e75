"""Quantities: parsing of unit strings and formatting of SI base values.

Inside gptplan every quantity is in SI base units: bytes, seconds, FLOP/s, bytes/s. Spec files
write them as strings with a unit; this module is the only place that reads or prints one.
"""

import math
import re
from typing import Any

KIB = 1024
MIB = 1024**2
GIB = 1024**3
TIB = 1024**4
GB = 10**9


class Bytes(int):
    """An amount of memory or storage, in bytes."""


class Seconds(float):
    """A duration, in seconds."""


class BytesPerSecond(float):
    """A one-way transfer rate, in bytes per second."""


class FlopsPerSecond(float):
    """An arithmetic rate, in floating-point operations per second (multiply-add counts 2)."""


_BINARY = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SI = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}

UNIT_SCALES: dict[type, dict[str, float]] = {
    Bytes: {**_DECIMAL, **_BINARY},
    Seconds: {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9},
    BytesPerSecond: {f"{u}/s": float(f) for u, f in {**_DECIMAL, **_BINARY}.items()}
    | {f"{p}bit/s": f / 8 for p, f in _SI.items()},
    FlopsPerSecond: {f"{p}FLOP/s": f for p, f in _SI.items()},
}
"""For each quantity, the units a spec file may use and what one of them is in base units."""

EXAMPLES = {Bytes: "80 GiB", Seconds: "2 us", BytesPerSecond: "300 GB/s", FlopsPerSecond: "312 TFLOP/s"}

RANGES: dict[type, tuple[float, float]] = {
    Bytes: (0, 2**50),
    Seconds: (0, 3600),
    BytesPerSecond: (1, 1e18),
    FlopsPerSecond: (1, 1e21),
}
"""The least and the most of each quantity in a spec, beyond which nothing is planned."""

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")


def parse_quantity(text: str, kind: type) -> Any:
    """Read ``"80 GiB"`` as a ``kind``, one of the classes of this module.

    Raises:
        ValueError: the text is no number with a unit of that kind; the message names the units.
    """
    scales = UNIT_SCALES[kind]
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in scales:
        units = ", ".join(scales)
        raise ValueError(f"`{text}` is not a quantity in one of {units}; write it like `{EXAMPLES[kind]}`")
    value = float(match[1]) * scales[match[2]]
    return in_range(kind, round(value) if kind is Bytes and math.isfinite(value) else value, text)


def in_range(kind: type, value: float, text: str) -> Any:
    """``value`` as a ``kind``, if a spec may have it.

    Raises:
        ValueError: it is outside of :data:`RANGES`; the message has the bounds.
    """
    least, most = RANGES[kind]
    if not least <= value <= most:
        raise ValueError(f"`{text}` is not from {shown(kind, least)} to {shown(kind, most)}")
    return kind(value)


def shown(kind: type, value: float) -> str:
    """A bound of :data:`RANGES` in the largest unit of bytes, FLOP or seconds that makes it a whole number."""
    scales = {unit: scale for unit, scale in UNIT_SCALES[kind].items() if "bit" not in unit}
    plain = next(unit for unit, scale in scales.items() if scale == 1)
    whole = [unit for unit, scale in scales.items() if value >= scale and value % scale == 0]
    unit = max(whole, key=scales.__getitem__, default=plain)
    return f"{value / scales[unit]:,.0f} {unit}"


_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 1.0))


def quantity_text(value: Any) -> str:
    """The inverse of :func:`parse_quantity`: ``"80 GiB"``, ``"2 us"``, ``"450 GB/s"`` or ``"989 TFLOP/s"``.

    Rates and durations keep six digits. Raises ``TypeError`` for what is no quantity.
    """
    if isinstance(value, Bytes):
        unit, scale = next((one for one in (("GiB", GIB), ("MiB", MIB)) if value and value % one[1] == 0), ("B", 1))
        return f"{value // scale} {unit}"
    if isinstance(value, Seconds):
        return _exact(value, [(f"{prefix}s", scale) for prefix, scale in (("u", 1e-6), ("m", 1e-3), ("", 1.0))])
    if isinstance(value, BytesPerSecond | FlopsPerSecond):
        unit = "B/s" if isinstance(value, BytesPerSecond) else "FLOP/s"
        natural = [one for one in _PREFIXES if value >= one[1]]
        return _exact(value, [(f"{prefix}{unit}", scale) for prefix, scale in natural or _PREFIXES[-1:]])
    raise TypeError(f"{type(value).__name__} has no form in a spec file")


def _exact(value: Any, units: list[tuple[str, float]]) -> str:
    """In the first unit that reads back as the very value, else in the first one."""
    texts = [f"{value / scale:.6g} {unit}" for unit, scale in units]
    return next((text for text in texts if parse_quantity(text, type(value)) == value), texts[0])


def format_bytes(num_bytes: float) -> str:
    """``"37.21 GiB"`` or a smaller binary unit; never a decimal one."""
    for unit, scale in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes:.0f} B"


TENTH_OF_GIB = GIB / 10
"""Of less, two digits after the point would leave one that says something, or none."""


def format_gib(num_bytes: float) -> str:
    """A memory amount in GiB, with the unit, for figures that stand beside each other; of less than a tenth in MiB."""
    if 0 < abs(num_bytes) < TENTH_OF_GIB:
        return f"{num_bytes / MIB:.2f} MiB"
    return f"{num_bytes / GIB:.2f} GiB"


LEAST_FOUR_DIGITS = 999.5
"""What rounds to 1,000."""


def format_seconds(duration_s: float) -> str:
    """``"20.1 s"``, ``"3.42 ms"`` or ``"1,210 s"``: three significant digits, and all of whole seconds."""
    if abs(duration_s) >= LEAST_FOUR_DIGITS:
        return f"{duration_s:,.0f} s"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(duration_s) >= scale * LEAST_FOUR_DIGITS / 1000:
            return f"{duration_s / scale:#.3g} {unit}".replace(". ", " ")
    return f"{duration_s / 1e-9:.0f} ns"


def format_gap(share: float) -> str:
    """A bound on a share in percent, rounded up: ``format_gap(0.00011)`` is ``"0.02%"``."""
    return f"{math.ceil(share * 1e4) / 1e4:.2%}"


def format_probability(value: float) -> str:
    """A probability in percent, rounded down: ``format_probability(0.9497)`` is ``"94.9%"``."""
    return f"{math.floor(value * 1e3 + 1e-9) / 1e3:.1%}"


def format_rate(value: float, unit: str) -> str:
    """``format_rate(1.4e14, "FLOP/s")`` is ``"140 TFLOP/s"``: three significant digits."""
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= scale:
            return f"{value / scale:#.3g}".rstrip(".") + f" {prefix}{unit}"
    return f"{value:#.3g}".rstrip(".") + f" {unit}"
