"""The least number of devices on which a model fits, and why one valid count fewer does not.

Whether a count fits is not monotone in the count: 95 may have no valid layout where 94 has one. So
every smaller count is excluded, the lowest ones together by a bound and each of the others by the
full check of all its layouts.
"""

import math
from collections.abc import Mapping

import numpy as np

from planner.cost_model.memory import stage_memory
from planner.cost_model.reserve import usable_bytes
from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.layouts.asked import asked_stages
from planner.layouts.layout import LayoutColumns
from planner.layouts.pins import asked_layers, pinned_devices, pinned_layers
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, StageColumns
from planner.rules import capacity
from planner.solver.answer import Answer, LeastDevices, NearestMiss
from planner.solver.candidates import enumerate_layouts
from planner.solver.counts import excluded_by_bound, most_usable_bytes, on, state_floor_bytes
from planner.solver.feasibility import valid, valid_layouts
from planner.solver.fit import fit
from planner.solver.limits import fits_host, fits_nvme
from planner.solver.recompute import least_peak_bytes
from planner.solver.search import solve

MOST_COUNTS = 4_096
"""Device counts above the bound that are tried one by one."""
MOST_ROWS = 10_000_000
"""Layouts of them that are, in less than a minute."""
NO_VALID_LAYOUT, NONE_FITS, FITS = "no valid layout", "none fits", "fits"


def solve_least_devices(
    problem: Problem, *, time_limit_s: float | None = None, top: int = 1
) -> tuple[Answer, LeastDevices]:
    """The best layout on the least number of devices, at most those of ``problem``, and the proof of least.

    Where no count fits, the answer is that for all devices of the problem.
    """
    proof = least_devices(problem)
    asked = on(problem, proof.num_devices or problem.num_devices)
    return solve(asked, time_limit_s=time_limit_s, top=top), proof


def least_devices(problem: Problem) -> LeastDevices:
    """The least count up to ``problem.num_devices`` with a layout that fits, every smaller one excluded.

    Raises:
        PlanError: more than :data:`MOST_COUNTS` counts or :data:`MOST_ROWS` layouts would have to be tried.
    """
    most = problem.num_devices
    needed, usable = state_floor_bytes(problem), most_usable_bytes(problem)
    excluded = excluded_by_bound(needed, usable, most)
    outcomes: dict[int, str] = {}
    rows = 0
    for count in range(excluded + 1, most + 1):
        if len(outcomes) == MOST_COUNTS or rows > MOST_ROWS:
            raise _too_many(problem, excluded, count)
        outcomes[count], looked_at = _outcome(on(problem, count))
        rows += looked_at
        if outcomes[count] == FITS:
            break
    least = next((count for count, outcome in outcomes.items() if outcome == FITS), None)
    return LeastDevices(
        num_devices=least,
        most_devices=most,
        excluded_by_bound=excluded,
        state_bytes=needed,
        usable_bytes_per_device=usable,
        no_valid_layout=_counts(outcomes, NO_VALID_LAYOUT),
        none_fits=_counts(outcomes, NONE_FITS),
        nearest_miss=_nearest_miss(problem, outcomes, (least or most + 1) - 1),
    )


def _too_many(problem: Problem, excluded: int, count: int) -> PlanError:
    return usage_error(
        f"no count of GPUs up to {count - 1:,} has a layout that fits, of which {excluded:,} are too few for the "
        f"training states alone; more than {MOST_COUNTS:,} counts or {MOST_ROWS:,} layouts are not tried",
        location="--min-gpus",
        hint=f"use `--gpus N` with a number N from {count:,} to {problem.num_devices:,}, without --min-gpus",
    )


def _outcome(problem: Problem) -> tuple[str, int]:
    """Whether some layout is valid and whether one of those fits; and how many were looked at."""
    if problem.num_devices % pinned_devices(problem.pins):
        return NO_VALID_LAYOUT, 0
    candidates = enumerate_layouts(problem, keeping_pins=True)
    columns = _with_pinned_layers(problem, valid(problem, candidates))
    if not len(columns):
        return NO_VALID_LAYOUT, len(candidates)
    return FITS if fit(problem, columns).any() else NONE_FITS, len(candidates)


def _valid_layouts(problem: Problem) -> LayoutColumns:
    """Layouts that keep the rules and whose stages can have the pinned layers."""
    return _with_pinned_layers(problem, valid_layouts(problem))


def _with_pinned_layers(problem: Problem, columns: LayoutColumns) -> LayoutColumns:
    pinned = asked_layers(problem.pins, problem.stack)
    if pinned is None or not len(columns):
        return columns
    stages = np.unique(columns.pipeline_parallel)
    possible = [pinned_layers(pinned, problem.model.num_layers, int(count)) is not None for count in stages]
    return columns.take(np.isin(columns.pipeline_parallel, stages[possible]))


def _counts(outcomes: Mapping[int, str], wanted: str) -> tuple[int, ...]:
    return tuple(count for count, outcome in outcomes.items() if outcome == wanted)


def _nearest_miss(problem: Problem, outcomes: Mapping[int, str], largest: int) -> NearestMiss | None:
    """The largest count up to ``largest`` that has valid layouts, none of which fits, in numbers."""
    for count in range(largest, 0, -1):
        smaller = on(problem, count)
        if outcomes.get(count) == NO_VALID_LAYOUT or count % pinned_devices(problem.pins):
            continue
        columns = _valid_layouts(smaller)
        if len(columns):
            return NearestMiss(
                num_devices=count, short_bytes=_short_bytes(smaller, columns), reasons=_memory_reasons(smaller)
            )
    return None


def _memory_reasons(problem: Problem) -> tuple[Diagnostic, ...]:
    """What the search says of the memories that the layouts of an infeasible problem do not fit."""
    memories, refusal = {rule.id for rule in capacity.RULES}, solve(problem).refusal
    findings = [finding for conflict in refusal.conflicts for finding in conflict.findings] if refusal else []
    return tuple(finding for finding in findings if finding is not None and finding.rule in memories)


def _short_bytes(problem: Problem, columns: LayoutColumns) -> int | None:
    """The least memory that every device would need on top for some layout to fit, by bisection.

    ``None`` where no amount helps, because of the host or of pinned layers.
    """
    stages = asked_stages(problem, columns)
    fullest = stages.with_layers(np.full(len(stages), problem.model.num_layers))
    excess = least_peak_bytes(problem, fullest) - usable_bytes(problem, fullest)
    too_little, enough = 0, max(1, math.ceil(excess.max()))
    fit = _fitting_with(problem, columns, enough)
    while fit.any() and enough - too_little > 1:
        columns = columns.take(fit)
        middle = (too_little + enough) // 2
        fit = _fitting_with(problem, columns, middle)
        if fit.any():
            enough = middle
        else:
            too_little, fit = middle, np.ones(len(columns), dtype=bool)
    return enough if fit.any() else None


def _fitting_with(problem: Problem, columns: LayoutColumns, extra_bytes: int) -> Booleans:
    """Which layouts fit devices with that much more memory."""

    def fits(problem: Problem, stages: StageColumns) -> Booleans:
        return np.asarray(stage_memory(problem, stages).peak_bytes() <= usable_bytes(problem, stages) + extra_bytes)

    return fit(problem, columns, [fits, fits_host, fits_nvme])
