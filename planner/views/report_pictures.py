"""Pictures of a plan as inline SVG: memory and time as bars, the pipeline as boxes."""

from collections.abc import Sequence
from html import escape

from planner.layouts.layout import Layout
from planner.plans.prediction import StagePrediction
from planner.specs.units import format_gib, format_seconds

MEMORY_COLOURS = (
    "#4878d0",
    "#ee854a",
    "#6acc64",
    "#d65f5f",
    "#956cb4",
    "#8c613c",
    "#dc7ec0",
    "#797979",
    "#d5bb67",
    "#82c6e2",
)
"""Told apart on light and on dark paper; taken in turn."""

WIDTH = 900
_LABEL, _BAR, _GAP = 90, 18, 8
_BOX, _BOX_HEIGHT, _PER_ROW = 84, 52, 10


def legend(names: Sequence[str], colours: Sequence[str]) -> str:
    """Names with the colours that :func:`memory_bars` and :func:`stacked_bar` give them, in their order."""
    items = "".join(
        f'<span><i style="background:{colours[i % len(colours)]}"></i>{escape(name)}</span>'
        for i, name in enumerate(names)
    )
    return f'<p class="legend">{items}</p>'


def memory_bars(stages: Sequence[StagePrediction], terms: Sequence[str]) -> str:
    """One bar a stage: its terms, then the reserve, faint, and a line at the capacity."""
    whole = max(max(stage.capacity_bytes, stage.peak_bytes + stage.reserve_bytes) for stage in stages)
    scale = (WIDTH - _LABEL - 10) / whole
    reserve_colour = MEMORY_COLOURS[len(terms) % len(MEMORY_COLOURS)]
    parts = []
    for number, stage in enumerate(stages):
        top = number * (_BAR + _GAP)
        parts.append(_text(0, top + 14, f"stage {number}"))
        left = float(_LABEL)
        for index, name in enumerate(terms):
            value = stage.breakdown_bytes.get(name, 0)
            title = f"{name.replace('_', ' ')}: {format_gib(value)}"
            parts.append(_box((left, top, value * scale, _BAR), MEMORY_COLOURS[index % len(MEMORY_COLOURS)], title))
            left += value * scale
        title = f"reserve: {format_gib(stage.reserve_bytes)}"
        parts.append(_box((left, top, stage.reserve_bytes * scale, _BAR), reserve_colour, title, opacity=0.45))
        end = _LABEL + stage.capacity_bytes * scale
        parts.append(
            f'<line x1="{end:.1f}" x2="{end:.1f}" y1="{top - 2}" y2="{top + _BAR + 2}" stroke="currentColor" '
            f'stroke-width="2"><title>capacity: {escape(format_gib(stage.capacity_bytes))}</title></line>'
        )
    return _svg("".join(parts), len(stages) * (_BAR + _GAP))


def stacked_bar(seconds: Sequence[float], names: Sequence[str]) -> str:
    """One bar over the whole width, divided by time."""
    whole, left, parts = sum(seconds), 0.0, []
    for index, (value, name) in enumerate(zip(seconds, names, strict=True)):
        width = value / whole * WIDTH
        colour = MEMORY_COLOURS[index % len(MEMORY_COLOURS)]
        parts.append(_box((left, 0, width, 2 * _BAR), colour, f"{name}: {format_seconds(value)}"))
        left += width
    return _svg("".join(parts), 2 * _BAR)


def pipeline_picture(layout: Layout) -> str:
    """A box for each stage in the order of the layers, with its layers and how many recompute."""
    parts = []
    for stage, (layers, recomputed) in enumerate(
        zip(layout.layers_per_stage, layout.recompute_layers_per_stage, strict=True)
    ):
        row, column = divmod(stage, _PER_ROW)
        left, top = column * (_BOX + 6), row * (_BOX_HEIGHT + _GAP)
        share = recomputed / layers if layers else 0.0
        parts.append(
            f'<rect x="{left}" y="{top}" width="{_BOX}" height="{_BOX_HEIGHT}" rx="4" fill="none" '
            f'stroke="currentColor"/><rect x="{left}" y="{top + _BOX_HEIGHT - 6}" width="{_BOX * share:.1f}" '
            f'height="6" fill="{MEMORY_COLOURS[1]}"><title>recomputed: {recomputed} of {layers}</title></rect>'
        )
        parts.append(_text(left + 6, top + 17, f"stage {stage}") + _text(left + 6, top + 35, f"{layers} layers"))
    rows = -(-len(layout.layers_per_stage) // _PER_ROW)
    return _svg("".join(parts), rows * (_BOX_HEIGHT + _GAP))


def _box(place: tuple[float, float, float, float], colour: str, title: str, *, opacity: float = 1.0) -> str:
    """``place`` is left, top, width and height."""
    left, top, width, height = place
    return (
        f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}" fill="{colour}" '
        f'fill-opacity="{opacity}"><title>{escape(title)}</title></rect>'
    )


def _text(left: float, baseline: float, words: str) -> str:
    return f'<text x="{left}" y="{baseline}" font-size="12">{escape(words)}</text>'


def _svg(content: str, height: int) -> str:
    return f'<svg viewBox="0 -3 {WIDTH} {height + 6}" width="{WIDTH}" height="{height + 6}" role="img">{content}</svg>'
