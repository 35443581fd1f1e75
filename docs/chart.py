"""Charts of a few kilobytes as SVG: frames with ticks, and points, lines and bars in them."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

Point = tuple[float, float]

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2")
MOST_TICKS = 5
TEN = 10
NARROW = 6
"""Ends of a logarithmic axis up to this factor apart have the ticks of a linear one."""


@dataclass(frozen=True)
class Axis:
    """What is along one side of a frame."""

    label: str
    low: float
    high: float
    log: int = 0
    """Base of a logarithmic axis; 0 on a linear one."""

    def share(self, value: float) -> float:
        """Where a value is between the ends, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """At most :data:`MOST_TICKS` round values between the ends."""
        if self.log and self.high > NARROW * self.low:
            exponents = range(math.floor(math.log(self.low, self.log)), math.ceil(math.log(self.high, self.log)) + 1)
            steps = [(1, 2, 5), (1, 3), (1,)] if self.log == TEN else [(1,)]
            tries = [[m * float(self.log) ** e for e in exponents for m in step] for step in steps]
            tries += [tries[-1][::every] for every in range(2, len(exponents) + 1)]
        else:
            unit = 10.0 ** math.floor(math.log10(self.high - self.low))
            sizes = [unit * factor for factor in (0.1, 0.2, 0.5, 1, 2, 5)]
            tries = [
                [step * n for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
                for step in sizes
            ]
        within = [[value for value in values if self.low <= value <= self.high] for values in tries]
        return next(values for values in within if len(values) <= MOST_TICKS)


@dataclass(frozen=True)
class Frame:
    """A part of a chart with two axes; places are in pixels of the whole."""

    left: int
    top: int
    width: int
    height: int
    x: Axis
    y: Axis

    def place(self, point: Point) -> tuple[int, int]:
        """The pixel of a point."""
        x, y = self.x.share(point[0]), self.y.share(point[1])
        return round(self.left + x * self.width), round(self.top + (1 - y) * self.height)

    def drawn(self) -> str:
        """Its outline, ticks and labels."""
        bottom, middle = self.top + self.height, (self.left + self.width // 2, self.top + self.height // 2)
        outline, words = f"M{self.left} {self.top}h{self.width}v{self.height}h-{self.width}z", []
        for tick in self.x.ticks():
            x, _ = self.place((tick, self.y.low))
            outline += f"M{x} {bottom}v4"
            words.append(text(x, bottom + 16, f"{tick:g}"))
        for tick in self.y.ticks():
            _, y = self.place((self.x.low, tick))
            outline += f"M{self.left} {y}h-4"
            words.append(text(self.left - 7, y + 4, f"{tick:g}", anchor="end"))
        x, y = self.left - 40, middle[1]
        words += [text(middle[0], bottom + 32, self.x.label), text(x, y, self.y.label, f"rotate(-90 {x} {y})")]
        return f'<path class="f" d="{outline}"/>' + "".join(words)

    def points(self, points: Iterable[Point], *, size: int = 4) -> str:
        """A dot for each point; those on the same pixel are one."""
        places = sorted(set(map(self.place, points)))
        steps = pairwise([(0, 0), *places])
        dots = "".join(f"m{x - before_x} {y - before_y}h0" for (before_x, before_y), (x, y) in steps)
        return f'<path class="d" stroke-width="{size}" d="{dots}"/>'

    def line(self, points: Iterable[Point], look: str) -> str:
        """A line through points; ``look`` is its attributes."""
        corners = " ".join(f"{x} {y}" for x, y in map(self.place, points))
        return f'<path fill="none" {look} d="M{corners}"/>'

    def bars(self, edges: Sequence[float], counts: Sequence[int]) -> str:
        """A bar for each count, between its edges."""
        stairs = ""
        for left, count, before in zip(edges[:-1], counts, (None, *counts[:-1]), strict=True):
            x, y = self.place((left, count))
            stairs += f"H{x}V{y}" * (count != before)
        (x, bottom), (end, _) = self.place((edges[0], 0)), self.place((edges[-1], 0))
        return f'<path fill="{COLOURS[0]}" d="M{x} {bottom}{stairs}H{end}V{bottom}z"/>'


def text(x: int, y: int, words: str, transform: str = "", *, anchor: str = "middle") -> str:
    """Words at a place."""
    more = f' style="text-anchor:{anchor}"' * (anchor != "middle") + f' transform="{transform}"' * bool(transform)
    return f'<text x="{x}" y="{y}"{more}>{escape(words)}</text>'


def svg(width: int, height: int, parts: Iterable[str]) -> str:
    """The whole file, on white paper."""
    style = (
        "text{font:11px sans-serif;text-anchor:middle}.f{fill:none;stroke:#444}"
        f".d{{stroke:{COLOURS[0]};stroke-linecap:round;opacity:.6}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><path fill="#fff" d="M0 0h{width}v{height}H0z"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )
