"""The plots of docs/validation.md: one figure a set, predicted against measured with the error histogram."""

import re
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

from planner.specs.units import GIB
from planner.validation import Report
from planner.validation.report import memory_pair, time_pair
from planner.validation.score import Pair, error_pct

BAND = 0.1
"""Relative error of the lines beside the diagonal."""
BINS = 30


def draw(report: Report, folder: Path) -> dict[str, str]:
    """Write the figure of every set that has a scored quantity; empty where Matplotlib is not installed."""
    if util.find_spec("matplotlib") is None:
        return {}
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
            _figure(panels, folder / drawn[name])
    return drawn


def _figure(panels: Sequence[tuple[str, list[Pair]]], path: Path) -> None:
    from matplotlib import rc_context  # noqa: PLC0415 - optional
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(4.2 * len(panels), 5.5), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, height_ratios=(3, 1))
    for column, (words, pairs) in enumerate(panels):
        _scatter(grid[0][column], words, pairs)
        _histogram(grid[1][column], pairs)
    with rc_context({"svg.hashsalt": "gptplan"}):
        figure.savefig(path, metadata={"Date": None})


def _scatter(axes: Any, words: str, pairs: list[Pair]) -> None:
    low, high = min(map(min, pairs)) / 1.2, max(map(max, pairs)) * 1.2
    axes.plot([low, high], [low, high], color="0.3", linewidth=0.8)
    for factor in (1 - BAND, 1 + BAND):
        axes.plot([low, high], [low * factor, high * factor], color="0.7", linewidth=0.6, linestyle="--")
    axes.scatter([m for m, _ in pairs], [p for _, p in pairs], s=9, alpha=0.5, linewidths=0)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    axes.set(xlabel=f"measured {words}", ylabel=f"predicted {words}")


def _histogram(axes: Any, pairs: list[Pair]) -> None:
    axes.hist([error_pct(*pair) for pair in pairs], bins=BINS)
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set(xlabel="error, %", ylabel="rows")
