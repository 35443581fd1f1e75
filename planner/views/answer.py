"""An answer for people: the plan, the layouts behind the best one, and why a number of GPUs is the least."""

from collections.abc import Sequence
from pathlib import Path

from planner.layouts.layout import Layout
from planner.layouts.words import FACTS, differences
from planner.plans.plan import Plan
from planner.plans.prediction import Prediction
from planner.solver.answer import Answer, LeastDevices
from planner.specs.units import format_bytes, format_gib, format_seconds
from planner.views.content import Fields, Table
from planner.views.plan import searched, summary, term_words

LEAST_SHARE = 0.0005
"""Terms that change by less than this share of the step are not worth a word."""


def found(answer: Answer, plan: Plan, path: Path | None) -> list[str | Fields | Table]:
    """The chosen layout, what was proven, and where the plan is if it is anywhere."""
    return [
        *summary(plan),
        f"\nsearched {searched(plan.evidence)} in {format_seconds(answer.solve_s)}",
        *(("", runners_up(plan, answer)) if answer.runners_up else ()),
        *([] if path is None else [f"\nplan: {path}"]),
    ]


def runners_up(plan: Plan, answer: Answer) -> Table:
    """One line for each choice, the best one first: its best layout, what it does otherwise and trades for that."""
    columns = [column for fact in FACTS for column in fact.columns]
    entries = [(plan.layout, plan.predicted, answer.variants)]
    entries += [(other.layout, other.predicted, other.variants) for other in answer.runners_up]
    rows = [
        (
            str(rank),
            format_seconds(predicted.step_s),
            f"{predicted.step_s / plan.predicted.step_s - 1:+.1%}",
            format_gib(max(stage.peak_bytes for stage in predicted.stages)),
            str(variants),
            *layout_cells(plan.layout, layout, trades(plan.predicted, predicted)),
        )
        for rank, (layout, predicted, variants) in enumerate(entries, start=1)
    ]
    headings = (
        "#",
        "step",
        "slower",
        "fullest stage",
        "variants",
        *(heading for heading, _ in columns),
        "against the best",
    )
    return Table(headings, rows, left=(-1,))


def layout_cells(best: Layout, layout: Layout, more: Sequence[str] = ()) -> list[str]:
    """A layout in a list: its columns, and what it does otherwise than the best, before ``more`` of that."""
    cells = [words(layout) for fact in FACTS for _, words in fact.columns]
    return [*cells, "; ".join([*differences(best, layout), *more])]


def trades(best: Prediction, other: Prediction) -> list[str]:
    """The term of the step that a layout saves most in, and the one that it loses most in."""
    names = dict.fromkeys((*best.breakdown_s, *other.breakdown_s))
    more = {name: other.breakdown_s.get(name, 0.0) - best.breakdown_s.get(name, 0.0) for name in names}
    ends = dict.fromkeys((min(names, key=more.__getitem__), max(names, key=more.__getitem__)))
    return [
        f"{format_seconds(abs(more[name]))} {'more' if more[name] > 0 else 'less'} {term_words(name)}"
        for name in ends
        if abs(more[name]) > LEAST_SHARE * best.step_s
    ]


def least_devices_text(least: LeastDevices) -> str:
    """Why a number of GPUs is the least, or why none suffices."""
    if least.num_devices is None:
        lines = [f"no number of GPUs up to {least.most_devices} is enough:"]
    elif least.num_devices == 1:
        lines = ["1 GPU is enough"]
    else:
        lines = [f"{least.num_devices} GPUs is the least:"]
    if least.excluded_by_bound:
        count = least.excluded_by_bound
        lines.append(
            f"  {_ranges(range(1, count + 1))}: the training states alone take {format_gib(least.state_bytes)}, "
            f"more than {count} x {format_gib(least.usable_bytes_per_device)}"
        )
    for counts, why in ((least.no_valid_layout, "no valid layout"), (least.none_fits, "valid layouts, but none fits")):
        if counts:
            lines.append(f"  {_ranges(counts)}: {why}")
    if least.nearest_miss is not None:
        miss = least.nearest_miss
        missed = "; ".join(reason.message for reason in miss.reasons)
        if miss.short_bytes is not None:
            missed = f"misses by {format_bytes(miss.short_bytes)} a GPU"
        lines.append(f"  the nearest of these, {miss.num_devices}: {missed}")
    return "\n".join(lines)


def _ranges(counts: Sequence[int], most: int = 12) -> str:
    """``"1-79, 81, 83-87"`` for rising counts; a long list is cut."""
    runs: list[list[int]] = []
    for count in counts:
        if runs and count == runs[-1][1] + 1:
            runs[-1][1] = count
        else:
            runs.append([count, count])
    words = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return ", ".join(words if len(words) <= most else [*words[:most], f"... {counts[-1]}"])
