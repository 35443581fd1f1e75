"""The nearest device counts that have a layout."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from planner.layouts.pins import pinned_devices
from planner.layouts.problem import MAX_DEVICES, Problem
from planner.solver.feasibility import candidates, feasible, has_valid_layout, some_fits
from planner.solver.state_floor import excluded_by_bound, most_usable_bytes, state_floor_bytes

MAX_NEIGHBOUR = 64
"""How far from the asked device count one with a valid layout is looked for."""
MAX_COUNTS = 128
"""Device counts above the asked one that are tried one by one; after them it is doubled."""
MAX_ROWS = 300_000
"""Candidates of these device counts after which no further one is tried; seconds of work."""


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
    if not has_valid_layout(problem):
        below, _ = _first(problem, range(asked - 1, max(0, asked - MAX_NEIGHBOUR), -1))
    # Counts up to here have too little memory for the states alone.
    bound = excluded_by_bound(state_floor_bytes(problem), most_usable_bytes(problem), MAX_DEVICES)
    start, unit = max(asked, bound), pinned_devices(problem.pins)
    above, tried_to = _first(problem, range(start + 1, min(MAX_DEVICES, start + MAX_COUNTS * unit) + 1))
    tried_to = max(tried_to, min(start, MAX_DEVICES))
    if above is None:
        doubled = (-(-asked // unit) * unit * 2**power for power in range(MAX_DEVICES.bit_length()))
        further = (count for count in doubled if tried_to < count <= MAX_DEVICES)
        above = next((count for count in further if feasible(on(problem, count))), None)
    return Counts(below, above, tried_to)


def _first(problem: Problem, counts: Iterable[int]) -> tuple[int | None, int]:
    """The first of some counts that has a layout, and the last one tried."""
    rows, tried, unit = 0, problem.num_devices, pinned_devices(problem.pins)
    for count in counts:
        if rows > MAX_ROWS:
            break
        tried = count
        if count % unit:
            continue
        there = on(problem, count)
        columns = candidates(there)
        rows += len(columns)
        if some_fits(there, columns):
            return count, tried
    return None, tried


def on(problem: Problem, num_devices: int) -> Problem:
    """The problem on another number of devices."""
    return msgspec.structs.replace(problem, num_devices=num_devices)
