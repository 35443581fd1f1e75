"""Reading specs: built-in names, TOML files, unit strings, and did-you-mean for what is wrong."""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from planner.diagnostics import usage_error
from planner.specs.hardware import HardwareSpec
from planner.specs.huggingface import config_file, read_config
from planner.specs.model import ModelSpec
from planner.specs.stack import StackSpec
from planner.specs.units import UNIT_SCALES, BytesPerSecond, FlopsPerSecond, parse_quantity

SpecType = TypeVar("SpecType", ModelSpec, HardwareSpec, StackSpec)
Struct = TypeVar("Struct")

FOLDERS: dict[type, str] = {ModelSpec: "models", HardwareSpec: "hardware", StackSpec: "stacks"}
_LISTING: dict[type, str] = {ModelSpec: "models", HardwareSpec: "hardware", StackSpec: "solve --help"}
ALIASES = {"gpt2": "gpt2-small", "gpt3": "gpt3-175b"}
MAX_SPEC_BYTES = 1024**2
LEFT_OUT = {"sequence_parallel_degree": 1}
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
    if path.suffix != ".toml" and not path.exists():
        names = known_names(kind)
        listed = f"use one of {', '.join(names)}, or a .toml file" + ", or a config.json" * (kind is ModelSpec)
        raise usage_error(
            f"there is no {folder.rstrip('s')} spec named `{name_or_path}`",
            hint=" ".join(filter(None, (did_you_mean(name_or_path, names), listed))),
        )
    return _decode_file(path, kind, name_or_path)


@cache
def _builtin(name: str, kind: type[SpecType]) -> SpecType:
    """A spec of the package, which does not change while it runs: a sweep asks for the same ones many times."""
    folder = FOLDERS[kind]
    return _decode_file(specs_root() / folder / f"{name}.toml", kind, f"specs/{folder}/{name}.toml")


def _decode_file(path: Path, kind: type[SpecType], shown: str) -> SpecType:
    try:
        if path.is_file() and path.stat().st_size > MAX_SPEC_BYTES:
            raise usage_error("the spec file is larger than 1 MiB", location=shown)
        fields = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise usage_error(
            f"cannot read the spec: {error.strerror}", location=shown, hint=f"see `gptplan {_LISTING[kind]}`"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise usage_error(f"the spec is not TOML: {error}", location=shown) from error
    if beyond := next(_beyond(fields, "$"), ""):
        raise usage_error(f"the spec is not valid: {beyond}", location=shown)
    try:
        return msgspec.convert(fields, kind, dec_hook=partial(_decode_quantity, plain_numbers=False))
    except msgspec.ValidationError as error:
        message, hint = _explain(str(error), fields, kind)
        raise usage_error(message, location=shown, hint=hint) from error


def _decode_quantity(kind: type, value: Any, *, plain_numbers: bool) -> Any:
    if kind not in UNIT_SCALES:
        raise NotImplementedError(kind)
    if isinstance(value, str):
        return parse_quantity(value, kind)
    if plain_numbers and value is None and issubclass(kind, BytesPerSecond | FlopsPerSecond):
        return kind(float("inf"))  # JSON has no infinity: a rate without a limit is written as null
    if plain_numbers and isinstance(value, int | float):
        return kind(value)
    raise ValueError(f"`{value}` has no unit")


_UNKNOWN = re.compile(r"Object contains unknown field `([^`]+)`(?: - at `\$\.?([^`]*)`)?")


def _explain(error: str, fields: dict[str, Any], kind: type) -> tuple[str, str]:
    match = _UNKNOWN.match(error)
    if match is None:
        return f"the spec is not valid: {error}", ""
    unknown, where = match[1], match[2] or ""
    struct: Any = kind
    for part in filter(None, where.split(".")):
        struct = {f.encode_name: f.type for f in msgspec.structs.fields(struct)}[part]
    known = [f.encode_name for f in msgspec.structs.fields(struct)]
    key = ".".join(filter(None, (where, unknown)))
    return f"unknown key `{key}`", did_you_mean(unknown, known) or f"the keys are {', '.join(known)}"


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """``"did you mean `gpt3-13b`?"`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(typed, list(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


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
