"""Reading specs: built-in names, TOML files, unit strings, and did-you-mean for what is wrong."""

import difflib
import hashlib
import os
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.inputs import read_input
from planner.specs.hardware import HardwareSpec
from planner.specs.huggingface import config_file, read_config
from planner.specs.model import ModelSpec
from planner.specs.stack import StackSpec
from planner.specs.units import UNIT_SCALES, BytesPerSecond, FlopsPerSecond, in_range, parse_quantity

SpecType = TypeVar("SpecType", ModelSpec, HardwareSpec, StackSpec)
Struct = TypeVar("Struct")

FOLDERS: dict[type, str] = {ModelSpec: "models", HardwareSpec: "hardware", StackSpec: "stacks"}
_LISTING: dict[type, str] = {ModelSpec: "models", HardwareSpec: "hardware", StackSpec: "stacks"}
_OPTIONS: dict[type, str] = {ModelSpec: "--model", HardwareSpec: "--gpu", StackSpec: "--stack"}
ALIASES = {"gpt2": "gpt2-small", "gpt3": "gpt3-175b"}
MAX_SPEC_BYTES = 1024**2
MOST_FINDINGS = 20
MOST_MEANT = 3
LEFT_OUT = {
    **{"sequence_parallel_degree": 1, "expert_parallel": 1, "recompute_pointwise": False},
    **{"confidence": None, "overlapping": None, "compiled": False},
}
"""Keys younger than the format of plans, and the value with which they are left out, so that plans keep their bytes."""
LARGEST_NUMBER = 1e30
"""Beyond every byte, FLOP and second that a cluster has."""


def specs_root() -> Path:
    """The folder of the built-in specs: inside the installed package, or in the checkout."""
    installed = Path(__file__).parent / "builtin"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "specs"


def builtin_names(kind: type[object]) -> list[str]:
    """Names of the built-in specs of a kind, sorted."""
    return sorted(path.stem for path in (specs_root() / FOLDERS[kind]).glob("*.toml"))


def known_names(kind: type[object]) -> list[str]:
    """Names that stand for a built-in spec of a kind: its own and short ones, sorted."""
    names = builtin_names(kind)
    return sorted([*names, *(short for short, full in ALIASES.items() if full in names)])


def short_names(name: str) -> list[str]:
    """What else a built-in spec may be called."""
    return [short for short, full in ALIASES.items() if full == name]


def load_spec(name_or_path: str, kind: type[SpecType]) -> SpecType:
    """The built-in spec of that name, or the one in that TOML file; a model may be a ``config.json`` or its folder.

    Raises:
        PlanError: no such name or file, or the file does not decode; the message says where.
    """
    folder = FOLDERS[kind]
    name = ALIASES.get(name_or_path, name_or_path)
    if name in builtin_names(kind):
        return _builtin(name, kind)
    path = Path(name_or_path)
    if issubclass(kind, ModelSpec) and (config := config_file(path)) is not None:
        return read_config(config, name_or_path)  # type: ignore[return-value]
    if path.suffix != ".toml" and not os.path.exists(path):  # noqa: PTH110 (a name too long to be one is none)
        names = known_names(kind)
        begun = [one for one in names if name_or_path and one.startswith(name_or_path.lower())]
        names = begun if len(begun) > MOST_MEANT else names
        listed = f"use one of {', '.join(names)}, or a .toml file" + ", or a config.json" * (kind is ModelSpec)
        raise usage_error(
            f"there is no {folder.rstrip('s')} spec named `{name_or_path}`",
            hint=listed if names is begun else " ".join(filter(None, (did_you_mean(name_or_path, names), listed))),
        )
    return _decode_file(path, kind, name_or_path)


@cache
def _builtin(name: str, kind: type[SpecType]) -> SpecType:
    """A spec of the package, which does not change while it runs: a sweep asks for the same ones many times."""
    folder = FOLDERS[kind]
    return _decode_file(specs_root() / folder / f"{name}.toml", kind, f"specs/{folder}/{name}.toml")


def _decode_file(path: Path, kind: type[SpecType], shown: str) -> SpecType:
    hint = f"see `gptplan {_LISTING[kind]}`"
    text = read_input(path, what="spec", most_bytes=MAX_SPEC_BYTES, shown=shown, hint=hint)
    try:
        fields = tomllib.loads(text.decode())
        _refuse_other_kind(fields, kind, shown)
        return decode(fields, kind, shown, what="spec")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise usage_error(f"the spec is not TOML: {error}", location=shown) from error


def _refuse_other_kind(fields: dict[str, Any], kind: type, shown: str) -> None:
    """Refuse a whole spec of another kind in one message."""
    for other, option in _OPTIONS.items():
        known = {field.encode_name: field.required for field in msgspec.structs.fields(other)}
        needed = {key for key, required in known.items() if required}
        if other is not kind and needed <= fields.keys() <= known.keys():
            wanted, found = (FOLDERS[one].rstrip("s") for one in (kind, other))
            raise usage_error(
                f"this is a {found} spec, and a {wanted} spec is asked for",
                location=shown,
                hint=f"use `{option} {shown}`",
            )


def decode(fields: dict[str, Any], struct: type[Struct], shown: str, *, what: str) -> Struct:
    """A struct from the tables of a file that a person wrote.

    Raises:
        PlanError: with everything that is wrong, one diagnostic each: missing and unknown keys, and bad values.
    """
    try:
        if not any(_beyond(fields, "$")):
            return msgspec.convert(fields, struct, dec_hook=_TYPED)
    except msgspec.ValidationError:
        pass
    found = [(f"the {what} is not valid: {beyond}", "") for beyond in _beyond(fields, "$")]
    found += _findings(fields, struct, what=what)
    more = f"{len(found) - MOST_FINDINGS} more are wrong"
    listed = [*found[:MOST_FINDINGS], *([(more, "")] if len(found) > MOST_FINDINGS else [])]
    raise PlanError(*(Diagnostic(rule="USAGE", message=one, location=shown, hint=hint) for one, hint in listed))


def _decode_quantity(kind: type, value: Any, *, plain_numbers: bool) -> Any:
    if kind not in UNIT_SCALES:
        raise NotImplementedError(kind)
    if isinstance(value, str):
        return parse_quantity(value, kind)
    if plain_numbers and value is None and issubclass(kind, BytesPerSecond | FlopsPerSecond):
        return kind(float("inf"))  # JSON has no infinity: a rate without a limit is written as null
    if plain_numbers and isinstance(value, int | float):
        return in_range(kind, value, f"{value:g}")
    raise ValueError(f"`{value}` has no unit")


_TYPED = partial(_decode_quantity, plain_numbers=False)


def _findings(fields: Any, struct: Any, path: str = "", *, what: str) -> Iterator[tuple[str, str]]:
    """Everything that is wrong in a table, and what to type instead: keys, values, and what these make together."""
    if not isinstance(fields, dict):
        yield f"the {what} is not valid: `{path}` has to be a table", f"write it as `[{path}]`"
        return
    known = {field.encode_name: field for field in msgspec.structs.fields(struct)}
    prefix, whole = f"{path}." if path else "", True
    missing = [key for key, field in known.items() if field.required and key not in fields]
    for key in [key for key in fields if key not in known]:
        meant = nearest(key, known)
        missing = [one for one in missing if one not in meant]  # said already
        yield f"unknown key `{prefix}{key}`", did_you_mean(key, known) or f"the keys are {', '.join(known)}"
    if missing:
        keys = ", ".join(f"`{prefix}{key}`" for key in missing)
        plural = "s" * (len(missing) > 1)
        yield f"the {what} is not valid: missing required key{plural} {keys}", "docs/specs.md says what each key is"
    for key in [key for key in known if key in fields]:
        for finding in _findings_of_value(fields[key], known[key].type, prefix + key, what=what):
            whole = False
            yield finding
    if whole and not missing and fields.keys() <= known.keys():
        yield from _refusals(fields, struct, path, what=what)


def _findings_of_value(value: Any, kind: Any, path: str, *, what: str) -> Iterator[tuple[str, str]]:
    tables = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and issubclass(one, msgspec.Struct)]
    if len(tables) != 1 or (value is None and type(None) in get_args(kind)):
        yield from _refusals(value, kind, path, what=what)
    elif get_origin(kind) is dict and isinstance(value, dict):
        for key, table in value.items():
            yield from _findings(table, tables[0], f"{path}.{key}", what=what)
    else:
        yield from _findings(value, tables[0], path, what=what)


def _refusals(value: Any, kind: Any, path: str, *, what: str) -> Iterator[tuple[str, str]]:
    try:
        msgspec.convert(value, kind, dec_hook=_TYPED)
    except msgspec.ValidationError as error:
        message, _, inside = str(error).partition(" - at `$")
        if get_origin(kind) is Literal:
            message = f"Expected one of {', '.join(f'`{word}`' for word in get_args(kind))}"
        where = f"{path}{inside.rstrip('`')}"
        is_plain = not inside and isinstance(value, str | int | float)
        found = f", and it is {value!r:.60}" if is_plain and not message.startswith("`") else ""
        shown = f" - at `$.{where}`" if where else ""
        yield f"the {what} is not valid: {message}{found}{shown}", "docs/specs.md says what each key takes"


def nearest(typed: str, known: Iterable[str]) -> list[str]:
    """The known words that a person may have meant: in other case, those that begin so if they are few, or the nearest.

    None where no word is near.
    """
    words = {word.lower(): word for word in known}
    typed = typed.lower()
    begun = [word for word in words if typed and word.startswith(typed)]
    if typed in words:
        begun = [typed]
    return [
        words[word]
        for word in (begun if 0 < len(begun) <= MOST_MEANT else difflib.get_close_matches(typed, words, n=1))
    ]


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """``"did you mean `gpt3-13b`?"`` for the known words that :func:`nearest` finds, or nothing."""
    meant = " or ".join(f"`{word}`" for word in nearest(typed, known))
    return f"did you mean {meant}?" if meant else ""


def to_builtins(value: Any) -> Any:
    """Structs as plain dicts and lists, quantities as plain numbers in base units, without :data:`LEFT_OUT`."""
    return _without(msgspec.to_builtins(value, enc_hook=lambda q: int(q) if isinstance(q, int) else float(q)))


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(child) for key, child in value.items() if child != LEFT_OUT.get(key, ...)}
    return [_without(child) for child in value] if isinstance(value, list) else value


def from_builtins(fields: Any, struct: type[Struct]) -> Struct:
    """The inverse of :func:`to_builtins`: quantities are plain numbers in base units.

    Raises:
        msgspec.ValidationError: a field is missing, unknown or not of its kind, or a number is beyond every quantity.
    """
    if beyond := next(_beyond(fields, "$"), ""):
        raise msgspec.ValidationError(beyond)
    return msgspec.convert(fields, struct, dec_hook=partial(_decode_quantity, plain_numbers=True))


def _beyond(value: Any, path: str) -> Iterator[str]:
    """Numbers that no quantity has: infinite, none, or so large that a product of a few has no floating-point form."""
    if isinstance(value, int | float) and not abs(value) <= LARGEST_NUMBER:
        yield f"{value!r:.40} is beyond {LARGEST_NUMBER:g} - at `{path}`"
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _beyond(child, f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}")


def spec_digest(spec: ModelSpec | HardwareSpec | StackSpec) -> str:
    """SHA-256 over a spec's canonical JSON; comments and order of the file do not matter."""
    encoded = msgspec.json.encode(to_builtins(spec), order="sorted")
    return "sha256:" + hashlib.sha256(encoded).hexdigest()
