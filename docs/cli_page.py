"""Writes docs/cli.md from the structs of the commands' options: ``python -m docs.cli_page``."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

import msgspec

from planner.cli.app import COMMANDS
from planner.handover.options import Declared, declared

PAGE = Path(__file__).with_name("cli.md")

_HEAD = """\
# Commands

Every option is declared once, on a field of the struct that its command takes: the command line, the refusal of
numbers out of range, what the workers of a run are told, and this page are made from it. With `-h` a command prints
the same. `gptplan --install-completion` teaches a shell to complete commands, options, built-in names and rule ids.

Answers go to stdout and messages to stderr. Exit codes: 0 yes, 1 a negative answer, 2 a mistake in the input, 3 a
defect of gptplan, 130 interrupted before there was an answer; `run` passes on that of a worker that failed.

With `--json` an error of the input is one JSON document on stdout too: `{"error": {...}, "others": [...]}`, where the
first error and each other one have `rule`, `severity`, `message`, `location`, `values`, `detail` and `hint`, as the
findings of `check` do. Where only the writing of an answer failed, the document has the answer as well.

This page is written by `make docs`; do not edit it.
"""
_KINDS: dict[Any, str] = {bool: "", int: "whole number", float: "number", Path: "path", str: "text"}


def cli_page() -> str:
    """The whole page."""
    contents = "\n".join(f"- [{_name(one)}](#gptplan-{_name(one)}) {_first_line(one)}" for one in COMMANDS)
    return "\n".join([_HEAD, contents, *map(_section, COMMANDS)])


def _name(function: Callable[..., int]) -> str:
    return function.__name__.replace("_", "-")


def _first_line(function: Callable[..., int]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


def _section(function: Callable[..., int]) -> str:
    options = sorted(declared(function.__annotations__["options"]), key=lambda one: not one.option.is_argument)
    usage = " ".join([_name(function), *map(_required, (one for one in options if one.default is msgspec.NODEFAULT))])
    rows = "\n".join(f"| {' | '.join(_cells(one))} |" for one in options)
    table = f"| option | takes | default | |\n|---|---|---|---|\n{rows}"
    return f"\n## gptplan {_name(function)}\n\n{_first_line(function)}\n\n```\ngptplan {usage}\n```\n\n{table}"


def _required(one: Declared) -> str:
    value = one.option.metavar or one.field.upper()
    return value if one.option.is_argument else f"{one.names[-1]} {value}"


def _cells(one: Declared) -> Iterator[str]:
    says, _, default = one.option.help.partition("[default: ")
    argument = (one.option.metavar or one.field.upper()).replace("|", "\\|")  # a table's own sign, also inside code
    yield f"`{argument}`" if one.option.is_argument else f"`{', '.join(one.names)}`"
    yield _takes(one)
    yield default.removesuffix("]") or _default(one.default)
    yield says.strip()


def _takes(one: Declared) -> str:
    kind = get_args(one.type)[0] if get_origin(one.type) is tuple else one.type
    if get_origin(kind) is UnionType or NoneType in get_args(kind):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    words = ", ".join(get_args(kind)) if get_origin(kind) is Literal else _KINDS[kind]
    if one.option.range is not None:
        bounds = str(one.option.range)
        return bounds if bounds.startswith("a ") else f"{words}, {bounds}"
    return words


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    return "" if value is None or value is False or value == () else str(value)


def main() -> None:
    """Write the page."""
    PAGE.write_text(cli_page() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
