"""The cheapest ways out of an infeasible problem, each of them tried by searching the changed problem."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from planner.cost_model import predict
from planner.diagnostics import Diagnostic
from planner.layouts import pins
from planner.layouts.degrees import divisors
from planner.layouts.layout import FREE_RECOMPUTE, OFFLOAD_TIERS, RECOMPUTE, Layout, LayoutColumns, columns_of
from planner.layouts.problem import MAX_GLOBAL_BATCH, Problem, Reserve
from planner.rules import ids_about
from planner.solver.counts import Counts, nearest_counts, on
from planner.solver.feasibility import best_known, candidates, feasible, fitting_limits, good_layout, valid
from planner.solver.fit import fit
from planner.solver.limits import StageLimits
from planner.solver.why_not.requirements import Requirement
from planner.specs import HardwareSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import MIB, Bytes, format_gib, format_seconds

MAX_BATCHES = 24
"""Global batches that are tried, the nearest ones first."""
NONE, MORE, UNPIN, OFFLOAD = "WAY000", "WAY001", "WAY002", "WAY003"
CARD, BATCH, RESERVE = "WAY004", "WAY005", "WAY006"
NO_WAY = "no single change of GPU count, pins, offload, card, global batch or reserve was found that leaves a layout"
LEAVE_OUT_ALL = "leave out every `--pin`, `--mode` and `--forbid`"


def ways_out(problem: Problem, conflict: Iterable[Requirement], counts: Counts) -> list[Diagnostic]:
    """A note for each single change that leaves a layout, with what the layout then takes.

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
    return ways or _without_pins(problem) or [Diagnostic(rule=NONE, severity="note", message=NO_WAY)]


def _without_pins(problem: Problem) -> list[Diagnostic]:
    """What helps a problem that has no layout without its pins and forbidden values either."""
    free = changed(problem, pins={}, forbids={})
    if free == problem:
        return []
    ways = [*_counts(free, nearest_counts(free)), *_offload(free), *_cards(free), *_reserve(free)]
    return [
        msgspec.structs.replace(
            way,
            message=f"without any pin or forbidden value, {way.message}",
            hint=f"{LEAVE_OUT_ALL}, and {way.hint}",
            values=way.values | {"field": "all"},
        )
        for way in ways
    ]


def changed(problem: Problem, **fields: Any) -> Problem:
    """The problem with other fields."""
    return msgspec.structs.replace(problem, **fields)


def _way(
    rule: str, change: str, problem: Problem, hint: str, values: dict[str, Any], layout: Layout | None = None
) -> Diagnostic:
    """A note on a changed problem that is known to have a layout; ``layout`` is its good one if that is known."""
    layout = layout or good_layout(problem)
    if layout is None:
        raise RuntimeError("a way out leads nowhere")
    predicted = predict(problem, layout)
    fullest = max(predicted.stages, key=lambda stage: stage.peak_bytes + stage.reserve_bytes)
    room = fullest.capacity_bytes - fullest.reserve_bytes
    mesh = f"TP {layout.tensor_parallel} x PP {layout.pipeline_parallel} x DP {layout.data_parallel}"
    return Diagnostic(
        rule=rule,
        severity="note",
        message=f"{change}: {mesh} then takes {format_seconds(predicted.step_s)} a step "
        f"and {format_gib(fullest.peak_bytes)} of {format_gib(room)}",
        values=values | {"step_s": predicted.step_s, "peak_bytes": fullest.peak_bytes, "room_bytes": room},
        hint=hint,
    )


def _counts(problem: Problem, counts: Counts) -> Iterator[Diagnostic]:
    asked, below, above = problem.num_devices, counts.below, counts.above
    if below is not None:
        words = f"{below} GPUs are the most below {asked} that have a layout"
        yield _way(MORE, words, on(problem, below), f"use `--gpus {below}`", {"num_devices": below})
    if above is not None:
        fewest = f"{above} GPUs are the fewest above {asked} that have a layout"
        enough = f"{above} GPUs are enough, and no count from {asked} to {counts.tried_to} is"
        words = fewest if above == counts.tried_to else enough
        yield _way(MORE, words, on(problem, above), f"use `--gpus {above}`", {"num_devices": above})


def _dropped(problem: Problem) -> Iterator[Diagnostic]:
    """Each pin and each forbidden value that alone is in the way; all of them if none is."""
    found = [*_dropped_pins(problem), *_dropped_forbids(problem)]
    yield from found
    without = changed(problem, pins={}, forbids={})
    if not found and len(problem.pins) + len(problem.forbids) > 1 and feasible(without):
        words = "without any pin or forbidden value there is a layout"
        yield _way(UNPIN, words, without, LEAVE_OUT_ALL, {"field": "all"})


def _dropped_pins(problem: Problem) -> Iterator[Diagnostic]:
    for field, pinned in problem.pins.items():
        without = changed(problem, pins={name: value for name, value in problem.pins.items() if name != field})
        limits = fitting_limits(without)
        if limits is None:
            continue
        layout = best_known(without, limits)
        if field == RECOMPUTE and columns_of(layout).recompute[0] == FREE_RECOMPUTE:
            words = (
                f"with {pins.listed(layout.recompute_layers_per_stage)} recomputed layers per stage there is a layout"
            )
            hint = f"leave out `--pin {field}={pinned}`"
            yield _way(UNPIN, words, without, hint, {"field": field, "pinned": pinned}, layout)
            continue
        for value in _other_values(field, pinned, layout, limits):
            there = changed(problem, pins=problem.pins | {field: value})
            words = f"with {field} {value} instead of {pinned} there is a layout"
            hint = f"use `--pin {field}={value}` instead of `{field}={pinned}`"
            values = {"field": field, "pinned": pinned, "value": value}
            yield _way(UNPIN, words, there, hint, values, layout if value == pins.said(layout, field) else None)


def _other_values(field: str, pinned: str, layout: Layout, limits: StageLimits) -> list[str]:
    """What to pin instead: the neighbours of a pinned micro batch that fit, or what a good layout has."""
    if field != "micro_batch":
        return [pins.said(layout, field)]
    sizes = np.unique(limits.stages.layouts.micro_batch).tolist()
    smaller, larger = [n for n in sizes if n < int(pinned)], [n for n in sizes if n > int(pinned)]
    return [str(size) for size in (*smaller[-1:], *larger[:1])]


def _dropped_forbids(problem: Problem) -> Iterator[Diagnostic]:
    for field, values in problem.forbids.items():
        for forbidden in dict.fromkeys(values):
            kept = tuple(value for value in values if value != forbidden)
            without = changed(problem, forbids=problem.forbids | {field: kept})
            if feasible(without):
                words = f"with {field} {forbidden} there is a layout"
                hint = f"leave out `--forbid {field}={forbidden}`"
                yield _way(UNPIN, words, without, hint, {"field": field, "forbidden": forbidden})


_PLACES = {"cpu": "the host", "nvme": "the host and NVMe"}


def _offload(problem: Problem) -> Iterator[Diagnostic]:
    """The nearest further tier of offload that leaves a layout, and how much of the states it then takes."""
    for tier in OFFLOAD_TIERS[OFFLOAD_TIERS.index(problem.allow_offload) + 1 :]:
        further = changed(problem, allow_offload=tier)
        layout = good_layout(further) if tier in problem.stack.offload_tiers else None
        if layout is not None:
            offload = layout.offload
            weights = f" and {offload.parameters:.0%} of the weights" if offload.parameters else ""
            words = (
                f"with {offload.optimizer:.0%} of the optimizer{weights} on {_PLACES[offload.tier]} there is a layout"
            )
            values = {"allow_offload": tier, "optimizer": offload.optimizer, "parameters": offload.parameters}
            yield _way(OFFLOAD, words, further, f"add `--allow-offload {tier}`", values, layout)
            return


def _cards(problem: Problem) -> Iterator[Diagnostic]:
    """The smallest larger built-in card of the same kind that the model fits."""
    cards = [load_spec(name, HardwareSpec) for name in builtin_names(HardwareSpec)]
    larger = [
        card
        for card in cards
        if card.device == problem.hardware.device and card.memory_bytes > problem.hardware.memory_bytes
    ]
    by_default = problem.devices_per_node == problem.hardware.devices_per_node
    for card in sorted(larger, key=lambda card: (card.memory_bytes, card.name)):
        per_node = card.devices_per_node if by_default else problem.devices_per_node
        there = changed(problem, hardware=card, devices_per_node=per_node)
        if feasible(there):
            words = f"{card.name} is the smallest built-in card with a layout"
            values = {"hardware": card.name, "devices_per_node": per_node}
            yield _way(CARD, words, there, f"use `--gpu {card.name}`", values)
            return


def _batches(problem: Problem) -> Iterator[Diagnostic]:
    """The nearest global batch that leaves a layout."""
    for batch in _batches_near(problem):
        there = changed(problem, global_batch=batch)
        if feasible(there):
            words = f"with a global batch of {batch} instead of {problem.global_batch} there is a layout"
            yield _way(BATCH, words, there, f"use `--global-batch {batch}`", {"global_batch": batch})
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


def _reserve(problem: Problem) -> Iterator[Diagnostic]:
    """The largest smaller reserve, in whole MiB, that leaves a layout.

    A layout that fits with a reserve fits with each smaller one, so fewer of them are looked at in every step.
    """
    most = int(problem.hardware.memory_bytes // MIB)
    fitting = _fitting_with_reserve(problem, 0, valid(problem, candidates(problem)))
    if not len(fitting):
        return
    works, fails = 0, most
    while fails - works > 1:
        middle = (works + fails) // 2
        left = _fitting_with_reserve(problem, middle, fitting)
        works, fails, fitting = (middle, fails, left) if len(left) else (works, middle, fitting)
    words = f"a reserve of {works} MiB, which leaves less for driver, communication and allocator, would do"
    there = _with_reserve(problem, works)
    yield _way(RESERVE, words, there, f"use `--reserve {works}MiB`", {"reserve_bytes": works * MIB})


def _fitting_with_reserve(problem: Problem, mebibytes: int, columns: LayoutColumns) -> LayoutColumns:
    """Those of some valid layouts that fit if so much of the device is left free."""
    return columns.take(fit(_with_reserve(problem, mebibytes), columns)) if len(columns) else columns


def _with_reserve(problem: Problem, mebibytes: int) -> Problem:
    return changed(problem, reserve=Reserve(num_bytes=Bytes(mebibytes * MIB)))
