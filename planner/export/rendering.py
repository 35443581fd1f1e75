"""Filling templates: values are quoted for the language that they stand in."""

import json
import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from planner.diagnostics import escaped

WIDTH = 118
_ASSIGNED = 30
"""Characters that stand before a list."""


def filled(template: str, **values: Any) -> str:
    """The template of a name with ``values`` in their places; every one that it names has to be there."""
    environment = Environment(
        loader=PackageLoader("planner.export"),
        autoescape=False,  # what stands in a script is quoted by the filters of its language
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        comment_start_string="{##",  # {# is how bash counts
        comment_end_string="##}",
    )
    environment.filters |= {
        "sh": sh,
        "comment": comment,
        "py": repr,
        "string": string,
        "count": count,
        "numbers": numbers,
    }
    return environment.get_template(template).render(**values).rstrip() + "\n"


def sh(value: Any) -> str:
    """A value as one word of a shell, several as that many."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return shlex.quote(str(value))
    return " ".join(map(sh, value))


def string(value: Any) -> str:
    """A value as a text of JSON, which is one of YAML too."""
    return json.dumps(str(value))


def comment(text: Any, indent: int = 0, width: int = WIDTH) -> str:
    """Text as comments of lines that are not too long, with controls as escapes."""
    shown = escaped(str(text)).replace("\n", " ")
    lines = textwrap.wrap(shown, width, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(f"# {line}" for line in lines)


def count(number: int, what: str) -> str:
    """Such as ``1 node`` or ``2 nodes``."""
    return f"{number} {what}{'s' * (number != 1)}"


def numbers(values: Sequence[int]) -> str:
    """A list of Python's, on several lines where it is long."""
    flat = ", ".join(map(str, values))
    if len(flat) <= WIDTH - _ASSIGNED:
        return f"[{flat}]"
    lines = textwrap.wrap(flat, WIDTH - 4, break_long_words=False)
    return "[  # fmt: skip\n" + "".join(f"    {line}\n" for line in lines) + "]"
