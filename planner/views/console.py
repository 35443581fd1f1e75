"""Where commands print their tables: stdout, wide enough, and with a reader who may leave."""

import os
import sys
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from planner.diagnostics import escaped

LEAST_WIDTH = 160
"""Columns of the widest tables."""


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


def stdout_console(least_width: int = LEAST_WIDTH) -> Console:
    """A console as wide as the terminal and no narrower than ``least_width``.

    A narrow terminal wraps lines that are too long for it, where Rich would cut words and figures.
    """
    return StdoutConsole(highlight=False, width=max(Console().width, least_width))
