"""Writing specs as the TOML files that :mod:`planner.specs.files` reads."""

import json
import re
from typing import Any

import msgspec

from planner.specs.units import GIB, MIB, Bytes, BytesPerSecond, FlopsPerSecond, Seconds, parse_quantity

_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("", 1.0))
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(spec: msgspec.Struct) -> str:
    """The spec as TOML with a unit on every quantity; fields at their default are left out.

    Rates and durations keep six digits. Raises ``TypeError`` for a value that no spec has.
    """
    return "\n".join(_table("", msgspec.to_builtins(spec, enc_hook=quantity_text))) + "\n"


def quantity_text(value: Any) -> str:
    """``"80 GiB"``, ``"2 us"``, ``"450 GB/s"`` or ``"989 TFLOP/s"``: what a spec file may say."""
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


def _table(path: str, fields: dict[str, Any]) -> list[str]:
    lines = [f"[{path}]"] if path else []
    lines += [
        f"{_key(name)} = {_value(value)}"
        for name, value in fields.items()
        if value is not None and not isinstance(value, dict)
    ]
    for name, value in fields.items():
        if isinstance(value, dict):
            lines += ["", *_table(f"{path}.{_key(name)}" if path else _key(name), value)]
    return lines


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
