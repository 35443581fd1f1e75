"""Pictures of a plan: memory and time as bars, the pipeline as boxes."""

from collections import Counter
from collections.abc import Sequence

from planner.layouts.layout import Layout
from planner.plans.prediction import Prediction, StagePrediction
from planner.specs.units import format_gib, format_seconds
from planner.views.content import Bar, Bars, Mark, Part, Tile, Tiles
from planner.views.plan import term_words

COLOURS = (
    "#1898e0",
    "#e07800",
    "#00a800",
    "#c068e8",
    "#b03828",
    "#889800",
    "#c00088",
    "#00a0a8",
    "#b08850",
    "#1870f0",
    "#f80068",
    "#307030",
    "#785898",
    "#d07890",
    "#686060",
    "#f80000",
    "#8800f8",
    "#f800e8",
)
"""As far apart in CIE Lab as colours can be that stand out, 3 to 1, from light paper and from dark."""
HATCHED = ""
"""In the place of a colour."""


def memory_bars(stages: Sequence[StagePrediction]) -> Bars:
    """One bar a stage: its terms, the largest over all stages first, then the reserve, and a line at the capacity."""
    totals = sum((Counter(stage.breakdown_bytes) for stage in stages), Counter())
    colours = _coloured([name for name, _ in totals.most_common()]) | {"reserve": HATCHED}
    capacity = max(stage.capacity_bytes for stage in stages)
    whole = max(capacity, *(stage.peak_bytes + stage.reserve_bytes for stage in stages))
    bars = []
    for number, stage in enumerate(stages):
        values = stage.breakdown_bytes | {"reserve": stage.reserve_bytes}
        parts = [
            Part(values[name] / whole, colour, f"{_words(name)}: {format_gib(values[name])}")
            for name, colour in colours.items()
            if values.get(name)
        ]
        bars.append(Bar(f"stage {number}", parts))
    legend = [(colour, _words(name)) for name, colour in colours.items()]
    mark = Mark(capacity / whole, f"capacity {format_gib(capacity)}")
    return Bars("Predicted memory at the peak, reserve and capacity of each stage", bars, legend, mark)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _coloured(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name; names beyond the colours share the last one."""
    return {name: COLOURS[min(number, len(COLOURS) - 1)] for number, name in enumerate(names)}


def time_bar(predicted: Prediction) -> Bars:
    """One bar over the whole width, divided by the terms of the step, the longest first."""
    terms = {name: s for name, s in sorted(predicted.breakdown_s.items(), key=lambda term: -term[1]) if s > 0}
    whole, colours = sum(terms.values()), _coloured(list(terms))
    parts = [Part(s / whole, colours[name], f"{term_words(name)}: {format_seconds(s)}") for name, s in terms.items()]
    return Bars("Step time by term", [Bar("step", parts)], [(colours[name], term_words(name)) for name in terms])


def pipeline(layout: Layout) -> Tiles:
    """A box for each stage in the order of the layers, with its layers and how many recompute."""
    divided = zip(layout.layers_per_stage, layout.recompute_layers_per_stage, strict=True)
    tiles = [
        Tile(
            (f"stage {stage}", f"{layers} layers", f"{recomputed} recomputed"),
            recomputed / layers if layers else 0.0,
            f"recomputed: {recomputed} of {layers}",
        )
        for stage, (layers, recomputed) in enumerate(divided)
    ]
    return Tiles("Stages of the pipeline", tiles, [(COLOURS[1], "share of the layers that are recomputed in backward")])
