"""Python as a syntax tree, and where its nodes stand in the text."""

import ast
import bisect
import itertools
import re
import warnings
from typing import Any

from planner.codes import Config
from planner.diagnostics import PlanError
from planner.lint.source import unreadable


class Places:
    """Lines and columns of offsets, from 1."""

    def __init__(self, text: str) -> None:
        """Index the lines."""
        self.starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def of(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset."""
        line = bisect.bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1


class Lines:
    """Offsets of the lines of a text, to turn syntax-tree positions (UTF-8 columns) into character offsets."""

    def __init__(self, text: str) -> None:
        """Index the lines; only a line feed ends one, as in the text that :func:`files.read` returns."""
        self.text = text
        self.starts = list(itertools.accumulate((len(line) + 1 for line in text.split("\n")), initial=0))
        self.ascii = text.isascii()

    def offset(self, line: int, column: int) -> int:
        """Character offset of a line (from 1) and a column (bytes of UTF-8, from 0)."""
        start = self.starts[min(line, len(self.starts)) - 1]
        if self.ascii:
            return start + column
        return start + len(self.text[start : start + column].encode()[:column].decode(errors="ignore"))

    def span(self, node: Any) -> tuple[int, int]:
        """Where the text of a node of a syntax tree begins and ends."""
        return (
            self.offset(node.lineno, node.col_offset),
            self.offset(node.end_lineno or node.lineno, node.end_col_offset or 0),
        )


def parse(text: str, shown: str) -> ast.Module:
    """The syntax tree of a text.

    Raises:
        PlanError: it is not Python or nests too deeply to be parsed safely.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as error:
        raise not_of("Python", error.msg, text, shown, (error.lineno or 1, error.offset or 1)) from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise unreadable(
            Config.OTHER_LANGUAGE,
            f"this cannot be parsed as Python: {str(error) or 'it nests too deeply'}",
            shown,
            hint="name a configuration file",
        ) from error


def not_of(language: str, message: str, text: str, shown: str, place: tuple[int, int]) -> PlanError:
    """The refusal of a text that breaks the grammar of its language in one place."""
    return unreadable(
        Config.OTHER_LANGUAGE,
        f"this is not {language}: {message}",
        f"{shown}:{place[0]}:{place[1]}",
        detail=_caret(text, *place),
        hint="correct the line, or name another file",
    )


def _caret(text: str, line: int, column: int) -> str:
    """A line of the text with a mark under one column."""
    lines = text.split("\n")
    content = lines[line - 1] if line <= len(lines) else ""
    first = max(0, column - 60)
    shown = "".join(c if c.isprintable() else " " for c in content[first : first + 100])
    return f"{shown}\n{' ' * min(len(shown), max(0, column - 1 - first))}^"
