"""Content on stdout, as wide as there is room and readable without colour; progress on stderr."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import zip_longest
from textwrap import TextWrapper
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment, Segments
from rich.table import Table as RichTable
from rich.text import Text

from planner.diagnostics import escaped
from planner.views.content import Fields, Table

UNLIMITED = 100_000
"""Columns of what is no terminal."""
LEAST_WORDS = 24
"""Columns below which words are not wrapped."""
GAP = 2
"""Columns between those of a table."""

Item = TypeVar("Item")


class StdoutConsole(Console):
    """Rich's console on stdout. Where nobody reads on, as behind ``| head``, the command ends as it would have."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The pieces of what is shown; of what inputs say, nothing moves the cursor, changes colours or turns text."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(escaped(piece.text), piece.style)

    def on_broken_pipe(self) -> None:
        """Drop the rest; Rich would exit with 1, which is a negative answer here."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_content(*blocks: str | Fields | Table) -> None:
    """Print lines, fields and tables no wider than the terminal, or than COLUMNS says; behind a pipe, as they are.

    Words are wrapped and never cut; no line ends in blanks. A table that is too wide is divided between its columns.
    """
    console = StdoutConsole(highlight=False, markup=False, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdecimal():
        console.width = UNLIMITED
    for block in blocks:
        if isinstance(block, str):
            console.print("\n".join(map(partial(_wrapped, width=console.width), block.split("\n"))), soft_wrap=True)
            continue
        drawn = [_fields(block, console)] if isinstance(block, Fields) else _tables(block, console.width)
        for number, one in enumerate(drawn):
            room = console.options.update(max_width=max(console.width, one.width or 0))
            console.print(Segments(_trimmed(console.render(one, room), above=number > 0)), end="", soft_wrap=True)


def _wrapped(line: str, width: int) -> str:
    """A line of words in lines as wide as there is room; what has no blank, such as a path, stays whole."""
    words = line.lstrip()
    indent = line[: len(line) - len(words)]
    wrapper = TextWrapper(
        width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(words)


def _trimmed(drawn: Iterable[Segment], *, above: bool) -> Iterator[Segment]:
    """The pieces of every line without blanks at its end, under an empty line if there is something above."""
    if above:
        yield Segment.line()
    for line in Segment.split_lines(drawn):
        while line and not line[-1].text.rstrip():
            line.pop()
        if line:
            yield from line[:-1]
            yield Segment(line[-1].text.rstrip(), line[-1].style)
        yield Segment.line()


def _fields(fields: Fields, console: Console) -> RichTable:
    """Two halves beside each other, or one below the other where that is too wide."""
    half = -(-len(fields.rows) // 2)
    pairs = zip_longest(fields.rows[:half], fields.rows[half:], fillvalue=("", ""))
    beside = _grid([(*left, f"  {right[0]}", right[1]) for left, right in pairs])
    room = console.options.update(max_width=UNLIMITED)
    return beside if console.measure(beside, options=room).maximum <= console.width else _grid(fields.rows)


def _grid(rows: Iterable[Sequence[str]]) -> RichTable:
    drawn = RichTable(box=None, show_header=False, pad_edge=False)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def _tables(table: Table, width: int) -> list[RichTable]:
    """A table in parts that fit, each of columns that fit beside each other behind the keys."""
    needed = [_least_width(table, column) for column in range(len(table.headings))]
    keys = list(range(table.keys))
    parts = [keys[:]]
    for column in range(table.keys, len(needed)):
        if sum(needed[one] + GAP for one in parts[-1]) + needed[column] > width and parts[-1] != keys:
            parts.append(keys[:])
        parts[-1].append(column)
    least = [sum(_least_width(table, one, words=1) + GAP for one in part) - GAP for part in parts]
    return [_table(table, part, its if its > width else None) for part, its in zip(parts, least, strict=True)]


def _least_width(table: Table, column: int, words: int = LEAST_WORDS) -> int:
    """What a column takes: a number whole; words, wrapped at ``words`` columns or more, but not within a word."""
    cells = [table.headings[column], *(row[column] for row in table.rows)]
    whole = max(map(cell_len, cells))
    if not table.is_left(column):
        return whole
    return min(whole, max(words, *(cell_len(word) for cell in cells for word in cell.split())))


def _table(table: Table, columns: Sequence[int], width: int | None) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False, width=width)
    for column in columns:
        is_left = table.is_left(column)
        drawn.add_column(Text(table.headings[column]), justify="left" if is_left else "right", no_wrap=not is_left)
    for row in table.rows:
        drawn.add_row(*(Text(row[column]) for column in columns))
    return drawn


def track(done: Iterable[Item], total: int) -> Iterator[Item]:
    """Pass on what is done, with a bar on stderr while it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("solving"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for item in done:
            progress.advance(task)
            yield item


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int, int], None]]:
    """A function to tell bytes that are done, all of them, and tokens so far; shown on stderr where there is work.

    On a terminal it is a bar, elsewhere a line for every tenth.
    """
    console = Console(stderr=True, highlight=False)
    texts = TextColumn(what), TextColumn("{task.description}")
    columns = texts[0], BarColumn(), DownloadColumn(binary_units=True), texts[1], TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)
        shown = [0]

        def tell(done: int, total: int, tokens: int) -> None:
            bar.update(task, completed=done, total=total, description=f"{tokens:,} tokens", visible=True)
            tenth = 10 * done // max(total, 1)
            if bar.disable and tenth > shown[0]:
                shown[0] = tenth
                console.print(f"{what}: {10 * tenth} %, {tokens:,} tokens", soft_wrap=True)

        yield tell
