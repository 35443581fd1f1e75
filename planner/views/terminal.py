"""Content on stdout: wide enough, readable without colour, and with a reader who may leave; progress on stderr."""

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import TypeVar

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from planner.diagnostics import escaped
from planner.views.content import Fields, Table

LEAST_WIDTH = 160
"""Columns of the widest tables."""

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


def print_content(*blocks: str | Fields | Table, least_width: int = LEAST_WIDTH) -> None:
    """Print lines, fields and tables, as wide as the terminal and no narrower than ``least_width``.

    A narrow terminal wraps lines that are too long for it, where Rich would cut words and figures.
    """
    console = StdoutConsole(highlight=False, markup=False, emoji=False, width=max(Console().width, least_width))
    for block in blocks:
        if isinstance(block, str):
            console.print(block, soft_wrap=True)
        else:
            console.print(_fields(block) if isinstance(block, Fields) else _table(block))


def _fields(fields: Fields) -> RichTable:
    drawn = RichTable(box=None, show_header=False, pad_edge=False)
    half = -(-len(fields.rows) // 2)
    for left, right in zip_longest(fields.rows[:half], fields.rows[half:], fillvalue=("", "")):
        drawn.add_row(*map(Text, (*left, f"  {right[0]}", right[1])))
    return drawn


def _table(table: Table) -> RichTable:
    drawn = RichTable(box=None, pad_edge=False)
    for column, heading in enumerate(table.headings):
        drawn.add_column(Text(heading), justify="left" if table.is_left(column) else "right")
    for row in table.rows:
        drawn.add_row(*map(Text, row))
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
