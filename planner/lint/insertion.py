"""Putting a key that a file lacks beside one that it has, in the language and the layout of the file."""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from planner.lint.constants import Lines
from planner.lint.python_source import parse
from planner.lint.source import Call, Language, Source, Value, spelled


def inserted(source: Source, beside: Sequence[str], key: str, value: Any, call: Call | None = None) -> str | None:
    """The text with one more key; ``None`` where its place is not clear.

    Args:
        source: the file as read.
        beside: keys of the file that may have the new one as a neighbour, the best first, as the file has them.
        key: the new key; of a nested one the last part is written.
        value: a plain value, or ``True`` for an option without a value.
        call: the call of a plugin that takes the key as an argument.
    """
    match source.language:
        case "python":
            return _in_python(source, beside, key, value, call)
        case "shell":
            return _in_shell(source, beside, key, value)
        case _:
            return _in_data(source, beside, key, value)


def line_end(text: str) -> str:
    """How the lines of a text end."""
    return "\r\n" if "\r\n" in text else "\n"


def _in_shell(source: Source, beside: Sequence[str], key: str, value: Any) -> str | None:
    at = next((source.options[option] for option in beside if option in source.options), None)
    if at is None:
        return None
    written = key if value is True else f"{key} {spelled(value, 'shell')}"
    return f"{source.text[:at]} {written}{source.text[at:]}"


def _in_data(source: Source, beside: Sequence[str], key: str, value: Any) -> str | None:
    """After a neighbour: on a line of its own where the neighbour has one, else behind a comma."""
    found = next(((k, v) for k in beside if (v := source.settings.get(k)) is not None and v.end >= 0), None)
    if found is None:
        return None
    neighbour, there = found
    last = neighbour.rpartition(".")[2]
    before = re.search(rf"""([\t ]*)(["']?){re.escape(last)}\2\s*[:=]\s*$""", source.text[: there.start])
    if before is None:
        return None
    quote = '"' if source.language == "json" else ""
    name = key.rpartition(".")[2]
    if name.startswith("--"):
        name = name[2:].replace("-", "-" if "-" in last else "_")
    joint = " = " if source.language == "toml" else ": "
    entry = f"{quote}{name}{quote}{joint}{spelled(value, source.language)}"
    own_line = source.text[: before.start()].rpartition("\n")[2].strip() == ""
    return _after(source.text, there.end, entry, before[1] if own_line else None, source.language)


def _after(text: str, end: int, entry: str, indent: str | None, language: Language) -> str:
    """An entry after the one that ends at ``end``; ``indent`` where that one stands on a line of its own."""
    if language == "json":
        gap = f"{line_end(text)}{indent}" if indent is not None else " "
        return f"{text[:end]},{gap}{entry}{text[end:]}"
    if indent is None:
        return f"{text[:end]}, {entry}{text[end:]}"
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    rest, tail = text[end:stop].removesuffix("\r"), text[stop:]
    return f"{text[:end]}{rest}{line_end(text)}{indent}{entry}{line_end(text)[:-1] if tail else ''}{tail}"


def _in_python(source: Source, beside: Sequence[str], key: str, value: Any, call: Call | None) -> str | None:
    tree, lines = parse(source.text, source.shown), Lines(source.text)
    written = spelled(value, "python")
    parent, _, name = key.rpartition(".")
    if call is not None:
        return _in_node(source.text, lines, _call_at(tree, call), f"{key}={written}")
    if parent:
        node = _table_at(tree, lines, source.settings.get(parent))
        entry = f"{name!r}: {written}" if isinstance(node, ast.Dict) else f"{name}={written}"
        return _in_node(source.text, lines, node, entry)
    return _as_statement(source.text, lines, tree, beside, f"{name} = {written}")


def _call_at(tree: ast.AST, call: Call) -> ast.Call | None:
    places = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return next((n for n in places if (n.lineno, n.col_offset + 1) == (call.line, call.column)), None)


def _table_at(tree: ast.AST, lines: Lines, value: Value | None) -> ast.Call | ast.Dict | None:
    if value is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Dict) and _span(lines, node) == (value.start, value.end):
            return node
    return None


def _span(lines: Lines, node: Any) -> tuple[int, int]:
    return lines.offset(node.lineno, node.col_offset), lines.offset(node.end_lineno, node.end_col_offset)


def _entries(lines: Lines, node: ast.Call | ast.Dict) -> Iterator[tuple[int, int]]:
    """Where each entry of a call or a table literal begins and ends."""
    if isinstance(node, ast.Dict):
        for key, item in zip(node.keys, node.values, strict=True):
            yield _span(lines, key or item)[0], _span(lines, item)[1]
        return
    yield from (_span(lines, part) for part in (*node.args, *node.keywords))


def _in_node(text: str, lines: Lines, node: ast.Call | ast.Dict | None, entry: str) -> str | None:
    if node is None:
        return None
    entries = sorted(_entries(lines, node))
    close = _span(lines, node)[1] - 1
    if not entries:
        return f"{text[:close]}{entry}{text[close:]}"
    start, end = entries[-1]
    indent = text[:start].rpartition("\n")[2]
    comma = re.compile(r"\s*,").match(text, end, close)
    if indent.strip() or "\n" not in text[start:close]:
        at = comma.end() if comma else end
        return f"{text[:at]}{'' if comma else ','} {entry}{',' if comma else ''}{text[at:]}"
    # One entry a line: the comma goes behind the last entry, the new one below its line and its comment.
    at = comma.end() if comma else end
    stop = text.find("\n", at)
    if stop < 0 or stop > close:
        return f"{text[:at]}{'' if comma else ','}{line_end(text)}{indent}{entry}{text[at:]}"
    below = f"{indent}{entry}{',' if comma else ''}{line_end(text)}"
    return f"{text[:at]}{'' if comma else ','}{text[at : stop + 1]}{below}{text[stop + 1 :]}"


def _as_statement(text: str, lines: Lines, tree: ast.Module, beside: Sequence[str], statement: str) -> str | None:
    """A module-level constant: below a neighbour, and above the first statement that uses it."""
    name = statement.partition(" ")[0]
    used = next((node for node in tree.body if _uses(node, name)), None)
    for neighbour in beside:
        node = next((n for n in tree.body if isinstance(n, ast.Assign) and _defines(n, neighbour)), None)
        if node is None or (used is not None and used.lineno <= (node.end_lineno or node.lineno)):
            continue
        stop = text.find("\n", _span(lines, node)[1])
        if stop < 0:
            return f"{text}{line_end(text)}{statement}"
        return f"{text[: stop + 1]}{statement}{line_end(text)}{text[stop + 1 :]}"
    first = used or next((n for n in tree.body if isinstance(n, ast.Assign)), None)
    if first is None:
        return None
    at = lines.offset(first.lineno, 0)
    return f"{text[:at]}{statement}{line_end(text)}{text[at:]}"


def _defines(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _uses(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(node))
