"""Taking one setting out of a file, with the comma or the line that belongs to it."""

import ast
import re

from planner.configs.constants import Lines
from planner.configs.python_source import parse
from planner.configs.source import Source, Value


def removed(source: Source, value: Value, key: str) -> str | None:
    """The text without a setting; ``None`` where its language or its place does not allow it.

    Python: a whole assignment, or a keyword argument. Shell: an option with its value.
    """
    if source.language == "python":
        return _without_python(source.text, value)
    if source.language == "shell":
        return _without_option(source.text, value, key)
    return None


def _without_python(text: str, value: Value) -> str | None:
    lines = Lines(text)
    for node in ast.walk(parse(text, "")):
        if isinstance(node, ast.Assign | ast.keyword):
            inner = node.value
            start = lines.offset(inner.lineno, inner.col_offset)
            end = lines.offset(inner.end_lineno or inner.lineno, inner.end_col_offset or 0)
            if (start, end) == (value.start, value.end):
                return _cut(text, lines.offset(node.lineno, node.col_offset), end, whole=isinstance(node, ast.Assign))
    return None


def _cut(text: str, start: int, end: int, *, whole: bool) -> str:
    """Cut a statement with its line end, or an argument with the comma beside it."""
    after = re.compile(r"[ \t]*(?:#[^\n]*)?\n?" if whole else r"\s*,\s*").match(text, end)
    if after:
        return text[:start] + text[after.end() :]
    return re.sub(r",\s*$", "", text[:start]) + text[end:]


def _without_option(text: str, value: Value, key: str) -> str | None:
    name = re.escape(key).replace(r"\-", "[-_]").replace("[-_][-_]", "--", 1)
    for match in re.finditer(rf"{name}(?![\w-])", text):
        flag = value.content is True and text.count("\n", 0, match.start()) + 1 == value.line
        if flag:
            return text[: match.start()] + text[match.end() :].lstrip(" ")
        if value.end >= 0 and match.end() < value.start <= match.end() + 2:
            return text[: match.start()] + text[value.end :].lstrip(" ")
    return None
