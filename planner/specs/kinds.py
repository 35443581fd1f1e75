"""What a key of a spec or a job may hold, in words."""

from collections.abc import Callable
from typing import Any

from msgspec import inspect as types

from planner.specs.units import EXAMPLES

_WORDS = {
    **{"IntType": "whole number", "FloatType": "number", "StrType": "text", "BoolType": "true or false"},
    "AnyType": "value of that key",
}
_BOUNDS = {"from": "ge", "above": "gt", "to": "le", "below": "lt"}


def kind_words(kind: types.Type) -> str:
    """Such as ``whole number from 1``, ``list of text``, or the values that a key takes."""
    return _KINDS.get(type(kind), _range)(kind)


_KINDS: dict[type, Callable[[Any], str]] = {
    types.Metadata: lambda kind: f"{kind_words(kind.type)}{_unit(kind)}",
    types.UnionType: lambda kind: " or ".join(
        kind_words(one) for one in kind.types if not isinstance(one, types.NoneType)
    ),
    types.LiteralType: lambda kind: ", ".join(f"`{value}`" for value in kind.values),
    types.VarTupleType: lambda kind: f"list of {kind_words(kind.item_type)}{_length(kind)}",
    types.TupleType: lambda kind: f"[{', '.join(map(kind_words, kind.item_types))}]",
    types.DictType: lambda kind: f"table of {kind_words(kind.value_type)} by {kind_words(kind.key_type)}",
    types.StructType: lambda kind: "table",
    types.CustomType: lambda kind: f"like `{EXAMPLES[kind.cls]}`",
}


def _unit(kind: types.Metadata) -> str:
    unit = (kind.extra or {}).get("unit", "number")
    return "" if unit == "number" else f", {unit}"


def _length(kind: types.VarTupleType) -> str:
    """How many there may be."""
    least = f"{kind.min_length} to " if kind.min_length else "at most "
    return f", {least}{kind.max_length}" if kind.max_length is not None else ""


def _range(kind: Any) -> str:
    """A plain value with its bounds, such as ``number above 0 to 1``."""
    bounds = {word: getattr(kind, name, None) for word, name in _BOUNDS.items()}
    stated = [
        f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}"
        for word, bound in bounds.items()
        if bound is not None
    ]
    return " ".join([_WORDS[type(kind).__name__], *stated])
