"""What people read, whatever they read it on: lines, fields, tables and pictures, for a terminal or a page to draw."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, TypeAlias


class Fields(NamedTuple):
    """Names with values. A terminal shows the second half beside the first."""

    rows: Sequence[tuple[str, str]]


class Table(NamedTuple):
    """Rows under headings."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    """Columns of words, as indices; those of numbers stand to the right."""

    def is_left(self, column: int) -> bool:
        """Whether a column holds words."""
        return column in self.left or column - len(self.headings) in self.left


class Bullets(NamedTuple):
    """Sentences, each of its own."""

    lines: Sequence[str]


class Box(NamedTuple):
    """A rectangle of a picture, in pixels."""

    left: float
    top: float
    width: float
    height: float
    fill: str
    """Its colour; an outline has none."""
    title: str
    opacity: float = 1.0


class Label(NamedTuple):
    """Words in a picture."""

    left: float
    baseline: float
    words: str


class Picture(NamedTuple):
    """A drawing for pages; terminals have the table beside it."""

    label: str
    width: float
    height: float
    boxes: Sequence[Box]
    labels: Sequence[Label] = ()
    legend: Sequence[tuple[str, str]] = ()
    """Colours with what they mean."""


Block: TypeAlias = str | Fields | Table | Bullets | Picture


class Section(NamedTuple):
    """What stands under one title of a page."""

    title: str
    body: Sequence[Block]
