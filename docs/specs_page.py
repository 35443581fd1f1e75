"""Writes docs/specs.md from the structs of planner/specs: ``python -m docs.specs_page``."""

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import UNSET
from msgspec import inspect as types

from planner.solver.candidates import MOST_LAYOUTS
from planner.solver.min_devices import MOST_COUNTS, MOST_ROWS
from planner.solver.search import MOST_STAGES
from planner.solver.why_not.conflict import MOST_STAGES as MOST_JUDGED
from planner.solver.why_not.relaxed import MOST_RELAXED
from planner.specs import HardwareSpec, ModelSpec, StackSpec
from planner.specs.base import Spec
from planner.specs.files import MAX_SPEC_BYTES
from planner.specs.kinds import kind_words
from planner.specs.units import EXAMPLES, RANGES, UNIT_SCALES, quantity_text, shown

PAGE = Path(__file__).with_name("specs.md")

_HEAD = """\
# Specs

What a model, a card and a training stack are made of: every key of the files in `specs/`, and of your own. A table in
a file, such as `[traffic]`, is a section here. A key without a default has to be there. Sizes, times and rates are
text with a unit; a plan holds them as numbers in bytes, seconds, bytes/s and FLOP/s.

{units}

A number or quantity out of its bounds is refused. A file has at most {size} MiB. Within the bounds `solve` takes at
most a minute of one core and 2 GB of memory, or refuses the question: more than {layouts:,} layouts, as a batch and a
number of GPUs with very many divisors have; more than {stages:,} stages of valid layouts to rank; where nothing fits,
more than {relaxed:,} layouts, or {judged:,} stages of them, among which to find out why; with `--min-gpus` more than
{counts:,} counts or {rows:,} layouts to try. `python -m benchmarks.hostile_questions` asks the hardest that we know.

This page is written by `make docs` from the structs in `planner/specs/`; do not edit it.
"""


class Leaf(NamedTuple):
    """One key of a spec file."""

    key: str
    kind: str
    """What may stand there, with its unit and range."""
    default: str
    meaning: str
    group: str
    """The comment over it and its neighbours in the struct."""


def specs_page() -> str:
    """The whole page."""
    units = "\n".join(
        f"- `{EXAMPLES[kind]}`: {', '.join(scales)}; {_bounds(kind)}" for kind, scales in UNIT_SCALES.items()
    )
    kinds: dict[str, type[Spec]] = {"A model": ModelSpec, "Hardware": HardwareSpec, "A training stack": StackSpec}
    return "\n".join(
        [
            _HEAD.format(
                units=units,
                layouts=MOST_LAYOUTS,
                stages=MOST_STAGES,
                relaxed=MOST_RELAXED,
                judged=MOST_JUDGED,
                counts=MOST_COUNTS,
                rows=MOST_ROWS,
                size=MAX_SPEC_BYTES >> 20,
            ),
            *(_section(kind, f"## {title}") for title, kind in kinds.items()),
        ]
    )


def _bounds(kind: type) -> str:
    least, most = RANGES[kind]
    return f"from {shown(kind, least)} to {shown(kind, most)}"


def _section(struct: type[Spec], title: str, path: str = "") -> str:
    lines, group = [title, "", _text(inspect.getdoc(struct) or "")], None
    for leaf in leaves(struct):
        if leaf.group != group:
            group = leaf.group
            lines += ["", f"**{group}**"] if group else []
            lines += ["", "| key | value | default | meaning |", "|---|---|---|---|"]
        lines.append(f"| `{leaf.key}` | {leaf.kind} | {leaf.default} | {leaf.meaning} |")
    sections = [_section(table, f"### {_titles(path, keys)}", f"{path}{keys[0]}.") for table, keys in tables(struct)]
    return "\n".join([*lines, "", *sections])


def _titles(path: str, keys: list[str]) -> str:
    return ", ".join(f"`[{path}{key}]`" for key in keys)


def tables(struct: type[Spec]) -> list[tuple[type[Spec], list[str]]]:
    """The keys of a struct that are tables of their own, by their kind."""
    found: dict[type[Spec], list[str]] = {}
    for field in _info(struct).fields:
        table = _table(field.type)
        if table is not None:
            found.setdefault(table, []).append(field.encode_name + ".KIND" * isinstance(field.type, types.DictType))
    return list(found.items())


def leaves(struct: type[Spec]) -> list[Leaf]:
    """Every key of a struct in its order; a key that is a table is one as well."""
    texts = documented(struct)
    return [
        Leaf(field.encode_name, kind_words(field.type), _default(field), *texts[field.name])
        for field in _info(struct).fields
    ]


def documented(struct: type[Spec]) -> dict[str, tuple[str, str]]:
    """Attribute to the docstring under it and the comment that heads its group.

    Raises:
        KeyError: a field of the struct has no docstring.
    """
    source = textwrap.dedent(inspect.getsource(struct))
    lines, (definition,) = source.splitlines(), ast.parse(source).body
    assert isinstance(definition, ast.ClassDef)
    found, group = {}, ""
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        above = lines[field.lineno - 2].strip()
        group = above.removeprefix("# ") if above.startswith("# ") else group if above else ""
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = (_text(str(text.value.value)), group)
    return found


def _info(struct: type[Spec]) -> types.StructType:
    info = types.type_info(struct)
    assert isinstance(info, types.StructType)
    return info


def _table(kind: types.Type) -> type[Spec] | None:
    """The struct of a table, of a table that may be left out, or of each table by a name."""
    inner = [kind.value_type] if isinstance(kind, types.DictType) else getattr(kind, "types", [kind])
    return next((one.cls for one in inner if isinstance(one, types.StructType) and issubclass(one.cls, Spec)), None)


def _default(field: types.Field) -> str:
    if field.required:
        return ""
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is None or value is UNSET:
        return "none"
    if isinstance(value, Spec | dict | tuple):
        return "its own" if isinstance(value, Spec) else "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if type(value) in UNIT_SCALES:
        return "no limit" if value == float("inf") else quantity_text(value)
    return (f"`{value}`" if value else "empty") if isinstance(value, str) else f"{value:g}"


def _text(docstring: str) -> str:
    return re.sub(r"\s+", " ", docstring).replace("``", "`").replace("|", "\\|").strip()


def main() -> None:
    """Write the page."""
    PAGE.write_text(specs_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
