"""Changing a file in its own layout: a setting put beside another one, taken out, or given another name."""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Any

from planner.lint.source import Call, Language, Source, Value, spelled
from planner.lint.syntax import Lines, parse


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
            return _into_python(source, beside, key, value, call)
        case "shell":
            at = next((source.options[option] for option in beside if option in source.options), None)
            written = key if value is True else f"{key} {spelled(value, 'shell')}"
            return None if at is None else f"{source.text[:at]} {written}{source.text[at:]}"
        case _:
            return _into_data(source, beside, key, value)


def removed(source: Source, value: Value, key: str) -> str | None:
    """The text without a setting; ``None`` where its place is not clear."""
    match source.language:
        case "python":
            return _without_python(source.text, value)
        case "shell":
            return _without_option(source, value, key)
        case "json":
            named = _named(source, value, key)
            return None if named is None else _cut(source.text, named.start(), value.end, whole=False)
        case _:
            return _without_line(source, value, key)


def renamed(source: Source, value: Value, key: str, name: str) -> str | None:
    """The text with a setting of another name; ``None`` where its name does not stand before its value."""
    named = _named(source, value, key)
    return None if named is None else source.text[: named.start(2)] + name + source.text[named.end(2) :]


def _named(source: Source, value: Value, key: str) -> re.Match[str] | None:
    """The name before a value with its quotes; without them in the second group."""
    last = re.escape(key.rpartition(".")[2])
    pattern = rf"""(?<![\w.])(["']?)({last})\1\s*[:=]\s*$"""
    return re.compile(pattern).search(source.text[max(0, value.start - 300) : value.start].rjust(value.start))


def _line_end(text: str) -> str:
    """How the lines of a text end."""
    return "\r\n" if "\r\n" in text else "\n"


def _into_data(source: Source, beside: Sequence[str], key: str, value: Any) -> str | None:
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
        gap = f"{_line_end(text)}{indent}" if indent is not None else " "
        return f"{text[:end]},{gap}{entry}{text[end:]}"
    if indent is None:
        return f"{text[:end]}, {entry}{text[end:]}"
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    rest, tail = text[end:stop].removesuffix("\r"), text[stop:]
    return f"{text[:end]}{rest}{_line_end(text)}{indent}{entry}{_line_end(text)[:-1] if tail else ''}{tail}"


def _into_python(source: Source, beside: Sequence[str], key: str, value: Any, call: Call | None) -> str | None:
    tree, lines = parse(source.text, source.shown), Lines(source.text)
    written = spelled(value, "python")
    parent, _, name = key.rpartition(".")
    if call is None and not parent:
        return _as_statement(source.text, lines, tree, beside, f"{name} = {written}")
    table = source.settings.get(parent)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call | ast.Dict):
            continue
        if call is not None and isinstance(node, ast.Call) and (node.lineno, node.col_offset + 1) == call.place:
            return _into_node(source.text, lines, node, f"{key}={written}")
        if call is None and table is not None and lines.span(node) == (table.start, table.end):
            entry = f"{name!r}: {written}" if isinstance(node, ast.Dict) else f"{name}={written}"
            return _into_node(source.text, lines, node, entry)
    return None


def _entries(lines: Lines, node: ast.Call | ast.Dict) -> Iterator[tuple[int, int]]:
    """Where each entry of a call or a table literal begins and ends."""
    if isinstance(node, ast.Dict):
        for key, item in zip(node.keys, node.values, strict=True):
            yield lines.span(key or item)[0], lines.span(item)[1]
        return
    yield from (lines.span(part) for part in (*node.args, *node.keywords))


def _into_node(text: str, lines: Lines, node: ast.Call | ast.Dict, entry: str) -> str:
    entries = sorted(_entries(lines, node))
    close = lines.span(node)[1] - 1
    if not entries:
        return f"{text[:close]}{entry}{text[close:]}"
    start, end = entries[-1]
    indent = text[:start].rpartition("\n")[2]
    comma = re.compile(r"\s*,").match(text, end, close)
    at, missing = (comma.end(), "") if comma else (end, ",")
    if indent.strip() or "\n" not in text[start:close]:
        return f"{text[:at]}{missing} {entry}{',' if comma else ''}{text[at:]}"
    # One entry a line: the comma goes behind the last entry, the new one below its line and its comment.
    stop = text.find("\n", at)
    if stop < 0 or stop > close:
        return f"{text[:at]}{missing}{_line_end(text)}{indent}{entry}{text[at:]}"
    below = f"{indent}{entry}{',' if comma else ''}{_line_end(text)}"
    return f"{text[:at]}{missing}{text[at : stop + 1]}{below}{text[stop + 1 :]}"


def _as_statement(text: str, lines: Lines, tree: ast.Module, beside: Sequence[str], statement: str) -> str | None:
    """A module-level constant: below a neighbour, and above the first statement that uses it."""
    name = statement.partition(" ")[0]
    used = next((node for node in tree.body if _uses(node, name)), None)
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    for neighbour in beside:
        node = next((node for node in assigned if _defines(node, neighbour)), None)
        if node is None or (used is not None and used.lineno <= (node.end_lineno or node.lineno)):
            continue
        stop = text.find("\n", lines.span(node)[1])
        if stop < 0:
            return f"{text}{_line_end(text)}{statement}"
        return f"{text[: stop + 1]}{statement}{_line_end(text)}{text[stop + 1 :]}"
    first = used or next(iter(assigned), None)
    if first is None:
        return None
    at = lines.offset(first.lineno, 0)
    return f"{text[:at]}{statement}{_line_end(text)}{text[at:]}"


def _defines(node: ast.Assign, name: str) -> bool:
    return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)


def _uses(node: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Load) for n in ast.walk(node))


def _without_python(text: str, value: Value) -> str | None:
    lines = Lines(text)
    for node in ast.walk(parse(text, "")):
        if isinstance(node, ast.Assign | ast.keyword) and lines.span(node.value) == (value.start, value.end):
            return _cut(text, lines.span(node)[0], value.end, whole=isinstance(node, ast.Assign))
        if isinstance(node, ast.Dict):
            for key, item in zip(node.keys, node.values, strict=True):
                if key is not None and lines.span(item) == (value.start, value.end):
                    return _cut(text, lines.span(key)[0], value.end, whole=False)
    return None


def _cut(text: str, start: int, end: int, *, whole: bool) -> str:
    """Cut a statement with its line end, or an entry with the comma beside it."""
    after = re.compile(r"[ \t]*(?:#[^\n]*)?\n?" if whole else r"\s*,\s*").match(text, end)
    if after and not whole and re.match(r"[)\]}]", text[after.end() :]):
        # The last of several: its own comma stays with the line end that follows it.
        after = re.compile(r"\s*,").match(text, end)
        return text[:start].rstrip(" \t\r\n") + (text[after.end() :] if after else text[end:])
    if after:
        return text[:start] + text[after.end() :]
    return re.sub(r",\s*$", "", text[:start]) + text[end:]


def _without_line(source: Source, value: Value, key: str) -> str | None:
    """TOML and YAML: a key with its value on a line of their own."""
    named = _named(source, value, key)
    if named is None or value.end < 0:
        return None
    start = source.text.rfind("\n", 0, named.start()) + 1
    stop = source.text.find("\n", value.end)
    stop = len(source.text) if stop < 0 else stop + 1
    alone = not source.text[start : named.start()].strip()
    rest = source.text[value.end : stop].strip()
    return source.text[:start] + source.text[stop:] if alone and (not rest or rest.startswith("#")) else None


def _without_option(source: Source, value: Value, key: str) -> str | None:
    """Shell: an option with its value, where the two stand together."""
    name = next((option for option in source.options if option.replace("_", "-") == key), "")
    end, text = source.options.get(name, -1), source.text
    flag = value.content is True
    start = end - len(name) if flag else max(text.rfind(f"{name}{joint}", 0, end) for joint in (" ", "="))
    if not name or start < 0 or not text.startswith(name, start) or "\n" in text[start:end]:
        return None
    return text[:start] + text[end:].lstrip(" ")
