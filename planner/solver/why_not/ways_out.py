"""The cheapest ways out of an infeasible problem, each of them tried by searching the changed problem."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np

from planner.cost_model import predict
from planner.layouts import pins
from planner.layouts.degrees import divisors
from planner.layouts.layout import FREE_RECOMPUTE, OFFLOAD_TIERS, RECOMPUTE, Layout, LayoutColumns, columns_of
from planner.layouts.problem import MAX_GLOBAL_BATCH, Problem, Reserve
from planner.plans.prediction import Prediction
from planner.rules import ids_about
from planner.solver.counts import Counts, nearest_counts
from planner.solver.feasibility import best_known, feasible, fitting_limits, good_layout, valid_layouts
from planner.solver.fit import fit
from planner.solver.limits import StageLimits
from planner.solver.why_not.requirements import Requirement
from planner.specs import HardwareSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import MIB, Bytes

MAX_BATCHES = 24
"""Global batches that are tried, the nearest ones first."""
Changed = Literal["num_devices", "pins", "forbids", "choices", "allow_offload", "hardware", "global_batch", "reserve"]
"""A field of a problem; ``choices`` are all pins and all forbidden values at once."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A change of a problem that leaves a layout."""

    changed: Changed
    before: Any
    """Of a pin and a forbidden value what was typed, of a card its name, of a reserve nothing."""
    after: Any
    """``None`` for what is left out; of a reserve its bytes."""
    problem: Problem
    """With the change."""
    layout: Layout
    """A good one of its layouts."""
    predicted: Prediction
    field: str = ""
    """The layout field that was pinned or forbidden."""
    tried_to: int = 0
    """Of a larger number of devices: up to here no other one has a layout."""
    without_choices: bool = False
    """Whether all pins and forbidden values are left out too."""


def ways_out(problem: Problem, conflict: Iterable[Requirement], counts: Counts) -> list[Way]:
    """Each single change that leaves a layout.

    Where there is none, each that does so together with leaving out all pins and forbidden values.

    Args:
        problem: a problem without a layout.
        conflict: requirements that are in each other's way.
        counts: what :func:`planner.solver.counts.nearest_counts` found.
    """
    ways = [*_counts(problem, counts), *_dropped(problem), *_offload(problem), *_cards(problem)]
    if {requirement.rule for requirement in conflict} & ids_about("batch"):
        ways += _batches(problem)
    ways += _reserve(problem)
    return ways or _without_choices(problem)


def _without_choices(problem: Problem) -> list[Way]:
    """What helps a problem that has no layout without its pins and forbidden values either."""
    free = _with(problem, pins={}, forbids={})
    if free == problem:
        return []
    ways = [*_counts(free, nearest_counts(free)), *_offload(free), *_cards(free), *_reserve(free)]
    return [replace(way, without_choices=True) for way in ways]


def _with(problem: Problem, **fields: Any) -> Problem:
    return msgspec.structs.replace(problem, **fields)


def _way(changed: Changed, change: tuple[Any, Any], problem: Problem, layout: Layout | None = None, **more: Any) -> Way:
    """A way to a problem that is known to have a layout; ``layout`` is its good one if that is known."""
    layout = layout or good_layout(problem)
    if layout is None:
        raise RuntimeError("a way out leads nowhere")
    before, after = change
    predicted = predict(problem, layout)
    return Way(changed=changed, before=before, after=after, problem=problem, layout=layout, predicted=predicted, **more)


def _counts(problem: Problem, counts: Counts) -> Iterator[Way]:
    for count in (counts.below, counts.above):
        if count is not None:
            change = problem.num_devices, count
            yield _way("num_devices", change, _with(problem, num_devices=count), tried_to=counts.tried_to)


def _dropped(problem: Problem) -> Iterator[Way]:
    """Each pin and each forbidden value that alone is in the way; all of them if none is."""
    found = [*_dropped_pins(problem), *_dropped_forbids(problem)]
    yield from found
    without = _with(problem, pins={}, forbids={})
    if not found and len(problem.pins) + len(problem.forbids) > 1 and feasible(without):
        yield _way("choices", (None, None), without)


def _dropped_pins(problem: Problem) -> Iterator[Way]:
    for field, pinned in problem.pins.items():
        without = _with(problem, pins={name: value for name, value in problem.pins.items() if name != field})
        limits = fitting_limits(without)
        if limits is None:
            continue
        layout = best_known(without, limits)
        if field == RECOMPUTE and columns_of(layout).recompute[0] == FREE_RECOMPUTE:
            yield _way("pins", (pinned, None), without, layout, field=field)
            continue
        for value in _other_values(field, pinned, layout, limits):
            there = _with(problem, pins=problem.pins | {field: value})
            known = layout if value == pins.said(layout, field) else None
            yield _way("pins", (pinned, value), there, known, field=field)


def _other_values(field: str, pinned: str, layout: Layout, limits: StageLimits) -> list[str]:
    """What to pin instead: the neighbours of a pinned micro batch that fit, or what a good layout has."""
    if field != "micro_batch":
        return [pins.said(layout, field)]
    sizes = np.unique(limits.stages.layouts.micro_batch).tolist()
    smaller, larger = [n for n in sizes if n < int(pinned)], [n for n in sizes if n > int(pinned)]
    return [str(size) for size in (*smaller[-1:], *larger[:1])]


def _dropped_forbids(problem: Problem) -> Iterator[Way]:
    for field, values in problem.forbids.items():
        for forbidden in dict.fromkeys(values):
            kept = tuple(value for value in values if value != forbidden)
            without = _with(problem, forbids=problem.forbids | {field: kept})
            if feasible(without):
                yield _way("forbids", (forbidden, None), without, field=field)


def _offload(problem: Problem) -> Iterator[Way]:
    """The nearest further tier of offload that leaves a layout."""
    for tier in OFFLOAD_TIERS[OFFLOAD_TIERS.index(problem.allow_offload) + 1 :]:
        further = _with(problem, allow_offload=tier)
        layout = good_layout(further) if tier in problem.stack.offload_tiers else None
        if layout is not None:
            yield _way("allow_offload", (problem.allow_offload, tier), further, layout)
            return


def _cards(problem: Problem) -> Iterator[Way]:
    """The smallest larger built-in card of the same kind that the model fits."""
    cards = [load_spec(name, HardwareSpec) for name in builtin_names(HardwareSpec)]
    own = problem.hardware
    larger = [card for card in cards if card.device == own.device and card.memory_bytes > own.memory_bytes]
    by_default = problem.devices_per_node == own.devices_per_node
    for card in sorted(larger, key=lambda card: (card.memory_bytes, card.name)):
        per_node = card.devices_per_node if by_default else problem.devices_per_node
        there = _with(problem, hardware=card, devices_per_node=per_node)
        if feasible(there):
            yield _way("hardware", (own.name, card.name), there)
            return


def _batches(problem: Problem) -> Iterator[Way]:
    """The nearest global batch that leaves a layout."""
    for batch in _batches_near(problem):
        there = _with(problem, global_batch=batch)
        if feasible(there):
            yield _way("global_batch", (problem.global_batch, batch), there)
            return


def _batches_near(problem: Problem) -> list[int]:
    """Multiples of every degree times a pinned micro batch and number of them, the nearest first."""
    asked = problem.global_batch
    unit = int(problem.pins.get("micro_batch", 1)) * int(problem.pins.get("num_microbatches", 1))
    whole = "micro_batch" in problem.pins and "num_microbatches" in problem.pins
    near = set()
    for degree in divisors(problem.num_devices):
        step = unit * degree
        near |= {step} if whole else {asked // step * step, -(-asked // step) * step}
    possible = [batch for batch in near if 1 <= batch <= MAX_GLOBAL_BATCH and batch != asked]
    return sorted(possible, key=lambda batch: (abs(batch - asked), batch))[:MAX_BATCHES]


def _reserve(problem: Problem) -> Iterator[Way]:
    """The largest smaller reserve, in whole MiB, that leaves a layout.

    A layout that fits with a reserve fits with each smaller one, so fewer of them are looked at in every step.
    """
    fitting = _fitting_with_reserve(problem, 0, valid_layouts(problem))
    if not len(fitting):
        return
    works, fails = 0, int(problem.hardware.memory_bytes // MIB)
    while fails - works > 1:
        middle = (works + fails) // 2
        left = _fitting_with_reserve(problem, middle, fitting)
        works, fails, fitting = (middle, fails, left) if len(left) else (works, middle, fitting)
    yield _way("reserve", (None, works * MIB), _with_reserve(problem, works))


def _fitting_with_reserve(problem: Problem, mebibytes: int, columns: LayoutColumns) -> LayoutColumns:
    """Those of some valid layouts that fit if so much of the device is left free."""
    return columns.take(fit(_with_reserve(problem, mebibytes), columns)) if len(columns) else columns


def _with_reserve(problem: Problem, mebibytes: int) -> Problem:
    return _with(problem, reserve=Reserve(num_bytes=Bytes(mebibytes * MIB)), confidence=None)
