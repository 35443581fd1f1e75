"""Pictures of a plan: memory and time as bars, the pipeline as boxes."""

from collections import Counter
from collections.abc import Sequence
from itertools import cycle

from planner.layouts.layout import Layout
from planner.plans.prediction import Prediction, StagePrediction
from planner.specs.units import format_gib, format_seconds
from planner.views.content import Box, Label, Picture
from planner.views.plan import term_words

COLOURS = ["#4878d0", "#ee854a", "#6acc64", "#d65f5f", "#956cb4", "#8c613c", "#dc7ec0", "#797979", "#d5bb67", "#82c6e2"]
"""Told apart on light and on dark paper; taken in turn."""

WIDTH = 900
_LABEL, _BAR, _GAP = 90, 18, 8
_BOX, _BOX_HEIGHT, _PER_ROW = 84, 52, 10


def memory_bars(stages: Sequence[StagePrediction]) -> Picture:
    """One bar a stage: its terms, the largest over all stages first, then the reserve, and a line at the capacity."""
    totals = sum((Counter(stage.breakdown_bytes) for stage in stages), Counter())
    colours = dict(zip((*(name for name, _ in totals.most_common()), "reserve"), cycle(COLOURS), strict=False))
    whole = max(max(stage.capacity_bytes, stage.peak_bytes + stage.reserve_bytes) for stage in stages)
    scale = (WIDTH - _LABEL - 10) / whole
    boxes, labels, limits = [], [], []
    for number, stage in enumerate(stages):
        top, left = number * (_BAR + _GAP), float(_LABEL)
        labels.append(Label(0, top + 14, f"stage {number}"))
        for name, colour in colours.items():
            is_reserve = name == "reserve"
            value = stage.reserve_bytes if is_reserve else stage.breakdown_bytes.get(name, 0)
            title = f"{name.replace('_', ' ')}: {format_gib(value)}"
            boxes.append(Box(left, top, value * scale, _BAR, colour, title, opacity=0.45 if is_reserve else 1.0))
            left += value * scale
        end, title = _LABEL + stage.capacity_bytes * scale, f"capacity: {format_gib(stage.capacity_bytes)}"
        limits.append(Box(end - 1, top - 2, 2, _BAR + 4, "currentColor", title))
    legend = [(colour, name.replace("_", " ")) for name, colour in colours.items()]
    what = "Predicted memory at the peak, reserve and capacity of each stage"
    return Picture(what, WIDTH, len(stages) * (_BAR + _GAP), [*boxes, *limits], labels, legend)


def time_bar(predicted: Prediction) -> Picture:
    """One bar over the whole width, divided by the terms of the step, the longest first."""
    named = ((s, term_words(name)) for name, s in predicted.breakdown_s.items() if s > 0)
    terms = sorted(named, key=lambda term: -term[0])
    scale, left, boxes = WIDTH / sum(s for s, _ in terms), 0.0, []
    for (s, name), colour in zip(terms, cycle(COLOURS), strict=False):
        boxes.append(Box(left, 0, s * scale, 2 * _BAR, colour, f"{name}: {format_seconds(s)}"))
        left += s * scale
    legend = [(box.fill, name) for box, (_, name) in zip(boxes, terms, strict=True)]
    return Picture("Step time by term", WIDTH, 2 * _BAR, boxes, legend=legend)


def pipeline(layout: Layout) -> Picture:
    """A box for each stage in the order of the layers, with its layers and how many recompute."""
    boxes, labels = [], []
    divided = zip(layout.layers_per_stage, layout.recompute_layers_per_stage, strict=True)
    for stage, (layers, recomputed) in enumerate(divided):
        row, column = divmod(stage, _PER_ROW)
        left, top = column * (_BOX + 6), row * (_BOX_HEIGHT + _GAP)
        width, title = _BOX * recomputed / layers if layers else 0.0, f"recomputed: {recomputed} of {layers}"
        boxes.append(Box(left, top, _BOX, _BOX_HEIGHT, "", f"stage {stage}"))
        boxes.append(Box(left, top + _BOX_HEIGHT - 6, width, 6, COLOURS[1], title))
        labels += [Label(left + 6, top + 17, f"stage {stage}"), Label(left + 6, top + 35, f"{layers} layers")]
    rows = -(-len(layout.layers_per_stage) // _PER_ROW)
    return Picture("Stages of the pipeline", WIDTH, rows * (_BOX_HEIGHT + _GAP), boxes, labels)
