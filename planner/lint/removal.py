"""Taking one setting out of a file, with the comma or the line that belongs to it, or giving it another name."""

import ast
import re

from planner.lint.constants import Lines
from planner.lint.python_source import parse
from planner.lint.source import Source, Value


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
    if named is None:
        return None
    return source.text[: named.start(2)] + name + source.text[named.end(2) :]


def _named(source: Source, value: Value, key: str) -> re.Match[str] | None:
    """The name before a value with its quotes; without them in the second group."""
    last = re.escape(key.rpartition(".")[2])
    pattern = rf"""(?<![\w.])(["']?)({last})\1\s*[:=]\s*$"""
    return re.compile(pattern).search(source.text[max(0, value.start - 300) : value.start].rjust(value.start))


def _without_python(text: str, value: Value) -> str | None:
    lines = Lines(text)
    for node in ast.walk(parse(text, "")):
        if isinstance(node, ast.Assign | ast.keyword):
            start, end = _span(lines, node.value)
            if (start, end) == (value.start, value.end):
                return _cut(text, lines.offset(node.lineno, node.col_offset), end, whole=isinstance(node, ast.Assign))
        if isinstance(node, ast.Dict):
            for key, item in zip(node.keys, node.values, strict=True):
                if key is not None and _span(lines, item) == (value.start, value.end):
                    return _cut(text, _span(lines, key)[0], value.end, whole=False)
    return None


def _span(lines: Lines, node: ast.expr) -> tuple[int, int]:
    return (
        lines.offset(node.lineno, node.col_offset),
        lines.offset(node.end_lineno or node.lineno, node.end_col_offset or 0),
    )


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
