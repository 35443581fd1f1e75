"""The least number of devices on which a model fits, and why one valid count fewer does not.

Whether a count fits is not monotone in the count: 95 may have no valid layout where 94 has one. So
every smaller count is excluded, the lowest ones together by a bound and each of the others by the
full check of all its layouts.
"""

import math
from collections.abc import Mapping

import numpy as np

from planner.answer import Answer, LeastDevices, NearestMiss
from planner.candidates import enumerate_layouts
from planner.cost_model.memory import stage_memory, state_bytes, step_gradient_bytes, usable_bytes
from planner.cost_model.terms import total
from planner.diagnostics import Diagnostic
from planner.layout import Layout, LayoutColumns, Offload
from planner.pins import EVEN, pinned_devices, pinned_layers
from planner.problem import Problem
from planner.rules import capacity, judge
from planner.solver.counts import on
from planner.solver.fit import fit
from planner.solver.limits import fits_host, fits_nvme
from planner.solver.recompute import least_peak_bytes
from planner.solver.search import require_modelled, solve
from planner.stages import Booleans, StageColumns, stages_of, stages_of_layout

ROUNDING = 1e-9
"""Relative error that the sums of the bound are granted."""

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
    """The least count up to ``problem.num_devices`` with a layout that fits, every smaller one excluded."""
    most = problem.num_devices
    needed, usable = state_floor_bytes(problem), _most_usable_bytes(problem)
    excluded = _excluded_by_bound(needed, usable, most)
    outcomes: dict[int, str] = {}
    for count in range(excluded + 1, most + 1):
        outcomes[count] = _outcome(on(problem, count))
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


def state_floor_bytes(problem: Problem) -> float:
    """Bytes of training states that no layout avoids, over all its devices together.

    One device that holds the whole model, without activations, buckets and buffers, in the cheaper of
    the optimizer steps with and without ZeRO. Every layout holds at least this in its optimizer phase:
    copies, replicated parameters and padding for tensor parallelism only add to it, and ZeRO divides
    what data parallelism copied.
    """
    return min(
        float(total(state_bytes(problem, stages))[0] + step_gradient_bytes(problem, stages)[0])
        for stages in (_whole_model(problem, zero_stage) for zero_stage in (0, 1))
    )


def _whole_model(problem: Problem, zero_stage: int) -> StageColumns:
    """A single device with all layers and as much of the optimizer offloaded as the problem allows."""
    shares = (*problem.stack.offload_optimizer_fractions, float(problem.pins.get("offload.optimizer", 0)))
    share = max(shares) if problem.allow_offload != "none" else 0.0
    layout = Layout(
        tensor_mode="none", tensor_parallel=1, tensor_depth=1, pipeline_parallel=1, data_parallel=1,
        zero_stage=zero_stage, sequence_parallel=False, micro_batch=1, num_microbatches=1, schedule="none",
        num_model_chunks=1, layers_per_stage=(problem.model.num_layers,), recompute_layers_per_stage=(0,),
        offload=Offload(optimizer=share, tier=problem.allow_offload if share else "none"),
        precision=problem.precision,
    )  # fmt: skip
    return stages_of_layout(layout)


def _most_usable_bytes(problem: Problem) -> float:
    """What a device offers at most: with the reserve of a layout that has no communicators."""
    return float(usable_bytes(problem, _whole_model(problem, zero_stage=0))[0])


def _excluded_by_bound(needed: float, usable: float, most: int) -> int:
    """Up to which count the devices together have less memory than the states need."""
    if usable <= 0:
        return most
    return min(most, max(0, math.ceil(needed * (1 - ROUNDING) / usable) - 1))


def _outcome(problem: Problem) -> str:
    """Whether some layout is valid, and whether one of those fits."""
    if problem.num_devices % pinned_devices(problem.pins):
        return NO_VALID_LAYOUT
    columns = _valid_layouts(problem)
    if not len(columns):
        return NO_VALID_LAYOUT
    require_modelled(columns)
    return FITS if fit(problem, columns).any() else NONE_FITS


def _valid_layouts(problem: Problem) -> LayoutColumns:
    """Layouts that keep the rules and whose stages can have the pinned layers."""
    columns = enumerate_layouts(problem)
    valid, _ = judge(problem, columns)
    columns = columns.take(valid)
    pinned = problem.pins.get("layers_per_stage") or (None if problem.stack.uneven_stages else EVEN)
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
    memories = {rule.id for rule in capacity.RULES}
    return tuple(reason for reason in solve(problem).reasons if reason.rule in memories)


def _short_bytes(problem: Problem, columns: LayoutColumns) -> int | None:
    """The least memory that every device would need on top for some layout to fit, by bisection.

    ``None`` where no amount helps, because of the host or of pinned layers.
    """
    stages = stages_of(columns)
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
