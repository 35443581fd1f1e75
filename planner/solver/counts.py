"""Numbers of devices: which ones the training states alone exclude, and the nearest that have a layout."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from planner.cost_model.errors import KINDS
from planner.cost_model.intervals import confidence_of, memory_bound
from planner.cost_model.reserve import usable_bytes
from planner.cost_model.states import state_bytes, step_gradient_bytes
from planner.cost_model.terms import total
from planner.diagnostics import PlanError
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, Offload
from planner.layouts.pins import pinned_devices
from planner.layouts.problem import MAX_DEVICES, Problem
from planner.layouts.stages import StageColumns, stages_of_layout
from planner.solver.candidates import enumerate_layouts
from planner.solver.feasibility import feasible, some_fits, valid_layouts

MAX_NEIGHBOUR = 64
"""How far from the asked device count one with a valid layout is looked for."""
MAX_COUNTS = 128
"""Device counts above the asked one that are tried one by one; after them it is doubled."""
MAX_ROWS = 300_000
"""Candidates of these device counts after which no further one is tried; seconds of work."""
ROUNDING = 1e-9
"""Relative error that the sums of the bound are granted."""
_KINDS = (0, 1, SHARDS_WEIGHTS)
"""ZeRO stages that differ in what one device alone would hold."""


class Counts(NamedTuple):
    """Device counts near the asked one that have a layout."""

    below: int | None
    above: int | None
    tried_to: int
    """Above the asked count, none up to this one but ``above`` has a layout."""


def nearest_counts(problem: Problem) -> Counts:
    """The nearest device count below and the least above that have a layout.

    Fewer devices are tried only where no layout of the asked count is valid: they cannot help memory.
    """
    asked, below = problem.num_devices, None
    if not len(valid_layouts(problem)):
        below, _ = _first(problem, range(asked - 1, max(0, asked - MAX_NEIGHBOUR), -1))
    # Counts up to here have too little memory for the states alone.
    bound = excluded_by_bound(state_floor_bytes(problem), most_usable_bytes(problem), MAX_DEVICES)
    start, unit = max(asked, bound), pinned_devices(problem.pins)
    above, tried_to = _first(problem, range(start + 1, min(MAX_DEVICES, start + MAX_COUNTS * unit) + 1))
    tried_to = max(tried_to, min(start, MAX_DEVICES))
    if above is None:
        doubled = (-(-asked // unit) * unit * 2**power for power in range(MAX_DEVICES.bit_length()))
        further = (count for count in doubled if tried_to < count <= MAX_DEVICES)
        above = next((count for count in further if _feasible(on(problem, count))), None)
    return Counts(below, above, tried_to)


def _first(problem: Problem, counts: Iterable[int]) -> tuple[int | None, int]:
    """The first of some counts that has a layout, and the last one tried."""
    rows, tried, unit = 0, problem.num_devices, pinned_devices(problem.pins)
    for count in counts:
        if rows > MAX_ROWS:
            break
        if count % unit:
            tried = count
            continue
        there = on(problem, count)
        try:
            columns = enumerate_layouts(there, keeping_pins=True, most=MAX_ROWS)
        except PlanError:
            break
        tried = count
        rows += len(columns)
        if some_fits(there, columns):
            return count, tried
    return None, tried


def _feasible(problem: Problem) -> bool:
    """Whether it has a layout; not where they are too many to judge."""
    try:
        return feasible(problem)
    except PlanError:
        return False


def on(problem: Problem, num_devices: int) -> Problem:
    """The problem on another number of devices."""
    return msgspec.structs.replace(problem, num_devices=num_devices)


def state_floor_bytes(problem: Problem) -> float:
    """Bytes of training states that no layout avoids, over all its devices together.

    One device that holds the whole model, without activations, buckets and buffers, in the cheapest of
    the optimizer steps without ZeRO and with each kind of it. Every layout holds at least this in its optimizer phase:
    copies, replicated parameters and padding for tensor parallelism only add to it, and ZeRO divides
    what data parallelism copied.
    """
    asked = (*problem.stack.zero_stages, int(problem.pins.get("zero_stage", 0)))
    return min(
        float(total(state_bytes(problem, stages))[0] + step_gradient_bytes(problem, stages)[0])
        for stages in (_whole_model(problem, zero_stage) for zero_stage in _KINDS if zero_stage in {0, *asked})
    )


def _whole_model(problem: Problem, zero_stage: int) -> StageColumns:
    """A single device with all layers and as much of the optimizer offloaded as the problem allows."""
    in_pieces = zero_stage >= SHARDS_WEIGHTS
    shares = problem.stack.zero3_offload_fractions if in_pieces else problem.stack.offload_optimizer_fractions
    share = max((*shares, float(problem.pins.get("offload.optimizer", 0)))) if problem.allow_offload != "none" else 0.0
    weights = share if in_pieces else 0.0
    layout = Layout(
        zero_stage=zero_stage,
        layers_per_stage=(problem.model.num_layers,),
        recompute_layers_per_stage=(0,),
        offload=Offload(optimizer=share, parameters=weights, tier=problem.allow_offload if share else "none"),
        precision=problem.precision,
    )
    return stages_of_layout(layout)


def most_usable_bytes(problem: Problem) -> float:
    """What a device offers at most: with the reserve of a layout that has no communicators.

    Of the kinds of layout the one counts whose memory is surest.
    """
    stages = _whole_model(problem, zero_stage=0)
    stated = float(usable_bytes(msgspec.structs.replace(problem, confidence=None), stages)[0])
    if problem.reserve is not None and problem.confidence is None:
        return stated
    surest = min(memory_bound(problem, kind, confidence_of(problem)) for kind in KINDS)
    bare = float(usable_bytes(msgspec.structs.replace(problem, reserve=None, confidence=0.0), stages)[0])
    return bare / (1.0 + surest) if problem.reserve is None else min(stated, bare / (1.0 + surest))


def excluded_by_bound(needed: float, usable: float, most: int) -> int:
    """Up to which count the devices together have less memory than the states need."""
    if usable <= 0:
        return most
    return min(most, max(0, math.ceil(needed * (1 - ROUNDING) / usable) - 1))
