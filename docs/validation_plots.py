"""The plots of docs/validation.md: one figure a set, predicted against measured with the error histogram."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from docs.chart import Axis, Frame, svg
from planner.specs.units import GIB
from planner.validation import Report
from planner.validation.report import memory_pair, time_pair
from planner.validation.score import Pair, error_pct

BAND = 0.1
"""Relative error of the lines beside the diagonal."""
BINS = 30
COVERED = 1 / 80
"""Points nearer than this share of a side cover each other; one of them is drawn."""
_LEFT, _SIDE, _PANEL = 60, 250, 330
_TOP, _HISTOGRAM_TOP, _HISTOGRAM, _HEIGHT = 10, 315, 70, 425


def draw(report: Report, folder: Path) -> dict[str, str]:
    """Write the figure of every set that has a scored quantity, and say which file is whose."""
    for stale in folder.glob("validation-*.svg"):
        stale.unlink()
    drawn = {}
    for name in report.sets:
        replays = [one for one in report.replays if one.row.set_name == name]
        memory = [(m / GIB, p / GIB) for one in replays if (pair := memory_pair(one)) for m, p in [pair]]
        times = [pair for one in replays if (pair := time_pair(one))]
        panels = [(words, pairs) for words, pairs in (("memory, GiB", memory), ("step time, s", times)) if pairs]
        if panels:
            drawn[name] = f"validation-{re.sub('[^a-z0-9]+', '-', name.lower())}.svg"
            (folder / drawn[name]).write_text(figure(panels), encoding="utf-8")
    return drawn


def figure(panels: Sequence[tuple[str, list[Pair]]]) -> str:
    """A column for each quantity: its pairs, and a histogram of their errors."""
    parts = []
    for column, (words, pairs) in enumerate(panels):
        left = _LEFT + column * _PANEL
        parts += [_scatter(left, words, pairs), _histogram(left, [error_pct(*pair) for pair in pairs])]
    return svg(len(panels) * _PANEL, _HEIGHT, parts)


def _scatter(left: int, words: str, pairs: list[Pair]) -> str:
    low, high = min(map(min, pairs)) / 1.2, max(map(max, pairs)) * 1.2
    x, y = Axis(f"measured {words}", low, high, log=10), Axis(f"predicted {words}", low, high, log=10)
    frame = Frame(left, _TOP, _SIDE, _SIDE, x, y)
    lines = [frame.line([(low, low), (high, high)], 'stroke="#444"')]
    # From where they enter the frame to where they leave it.
    above, below = 1 + BAND, 1 - BAND
    bands = [(low, low * above), (high / above, high)], [(low / below, low), (high, high * below)]
    lines += [frame.line(band, 'stroke="#bbb" stroke-dasharray="4"') for band in bands]
    return "".join([frame.drawn(), *lines, frame.points(_apart(pairs, low, high))])


def _apart(pairs: list[Pair], low: float, high: float) -> list[Pair]:
    """Pairs that are told apart in a plot of that range: one of those that cover each other."""
    step = math.log(high / low) * COVERED
    places = {(round(math.log(x) / step), round(math.log(y) / step)): (x, y) for x, y in reversed(pairs)}
    drawn = set(places.values())
    return [pair for pair in pairs if pair in drawn]


def _histogram(left: int, errors: list[float]) -> str:
    low, high = min(errors), max(errors)
    if low == high:
        low, high = low - 0.5, high + 0.5
    width = (high - low) / BINS
    counted = Counter(min(int((error - low) / width), BINS - 1) for error in errors)
    counts = [counted[number] for number in range(BINS)]
    frame = Frame(
        left, _HISTOGRAM_TOP, _SIDE, _HISTOGRAM, Axis("error, %", low, high), Axis("rows", 0, max(counts) * 1.05)
    )
    zero = frame.line([(0, 0), (0, max(counts))], 'stroke="#444"') if low <= 0 <= high else ""
    return frame.drawn() + frame.bars([low + number * width for number in range(BINS + 1)], counts) + zero
