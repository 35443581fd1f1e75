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
    keys: int = 1
    """Columns at the front that tell the rows apart: they stand before every part of a table that is too wide."""

    def is_left(self, column: int) -> bool:
        """Whether a column holds words."""
        return column in self.left or column - len(self.headings) in self.left


class Bullets(NamedTuple):
    """Sentences, each of its own."""

    lines: Sequence[str]


class Part(NamedTuple):
    """A piece of a bar."""

    share: float
    """Of the whole width."""
    colour: str
    """Hatched where it has none."""
    title: str


class Bar(NamedTuple):
    """Pieces in a row."""

    label: str
    parts: Sequence[Part]


class Mark(NamedTuple):
    """A line across all bars, with its words above them."""

    share: float
    """Where it stands, of the whole width."""
    words: str


class Bars(NamedTuple):
    """Bars one below the other, for pages; terminals have the table beside it."""

    label: str
    bars: Sequence[Bar]
    legend: Sequence[tuple[str, str]]
    """Colours with what they mean."""
    mark: Mark | None = None


class Tile(NamedTuple):
    """A box with a few lines, a part of which is filled."""

    lines: Sequence[str]
    share: float
    title: str


class Tiles(NamedTuple):
    """Boxes beside each other, in as many rows as it takes."""

    label: str
    tiles: Sequence[Tile]
    legend: Sequence[tuple[str, str]]


class Curve(NamedTuple):
    """A line over the steps of a run, for pages; terminals have a table."""

    label: str
    points: Sequence[tuple[float, float]]
    """Places as shares of the width and of the height, from below."""
    low: str
    high: str
    ends: tuple[str, str]
    """What is at the left and at the right."""
    marks: Sequence[Mark]
    """Where something happened."""


Block: TypeAlias = str | Fields | Table | Bullets | Bars | Tiles | Curve


class Section(NamedTuple):
    """What stands under one title of a page."""

    title: str
    body: Sequence[Block]
