"""The layout that comes nearest to fitting, in numbers."""

from collections.abc import Sequence

import msgspec
import numpy as np

from planner.cost_model.host import host_bytes_per_rank, nvme_bytes_per_rank
from planner.cost_model.memory import PHASES, stage_memory
from planner.cost_model.reserve import reserve_bytes
from planner.cost_model.terms import total
from planner.diagnostics import Diagnostic
from planner.layouts.layout import RECOMPUTE, Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, StageColumns
from planner.rules import Rule
from planner.rules.capacity import DEVICE_MEMORY, NVME
from planner.solver.limits import Fits, fits_device, fits_host, fits_nvme, stage_limits
from planner.solver.recompute import with_least_peak
from planner.solver.tables import deal_evenly
from planner.specs.units import format_gib

VALID = "valid layout"


def nearest_device_miss(problem: Problem, columns: LayoutColumns, who: str) -> Diagnostic:
    """How much the fullest stage of the nearest of some layouts needs, where none fits the device.

    Layers are divided evenly, or as the pin says, within what the node holds.
    """
    stages = _divided(problem, columns, [fits_host, fits_nvme])
    memory, reserve = stage_memory(problem, stages), reserve_bytes(problem, stages)
    layout_row, fullest = _nearest(stages, memory.peak_bytes() + reserve)
    peak, capacity = float(memory.peak_bytes()[fullest]), problem.hardware.memory_bytes
    diagnostic = DEVICE_MEMORY.diagnose(
        problem,
        _layout(problem, stages, layout_row),
        stage=int(stages.stage[fullest]),
        phase=PHASES[int(np.argmax([total(terms)[fullest] for terms in memory.phases.values()]))],
        need=format_gib(peak),
        peak=format_gib(peak),
        room=format_gib(capacity - reserve[fullest]),
        reserve=format_gib(reserve[fullest]),
        capacity=format_gib(capacity),
        need_bytes=peak,
        room_bytes=float(capacity - reserve[fullest]),
    )
    return _of_the_nearest(diagnostic, who)


def nearest_node_miss(problem: Problem, columns: LayoutColumns, who: str, rule: Rule) -> Diagnostic:
    """How much the ranks of a node need of its host or NVMe in the nearest of some layouts, where none fits it.

    Layers are divided evenly, or as the pin says, within what the device holds.
    """
    host = problem.hardware.host
    needs, capacity = (
        (nvme_bytes_per_rank, host.nvme_capacity_bytes) if rule == NVME else (host_bytes_per_rank, host.memory_bytes)
    )
    stages = _divided(problem, columns, [fits_device])
    need = needs(problem, stages) * min(problem.devices_per_node, problem.num_devices)
    layout_row, fullest = _nearest(stages, need)
    diagnostic = rule.diagnose(
        problem,
        _layout(problem, stages, layout_row),
        need=format_gib(need[fullest]),
        capacity=format_gib(capacity),
        need_bytes=float(need[fullest]),
        capacity_bytes=int(capacity),
    )
    return _of_the_nearest(diagnostic, who)


def _of_the_nearest(diagnostic: Diagnostic, who: str) -> Diagnostic:
    message = f"no {who} fits; in the nearest one {diagnostic.message}"
    return msgspec.structs.replace(diagnostic, message=message)


def _unlimited(problem: Problem, stages: StageColumns) -> Booleans:
    return np.ones(len(stages), dtype=bool)


def _divided(problem: Problem, columns: LayoutColumns, where: Sequence[Fits]) -> StageColumns:
    """The stages of layouts that fit ``where``, or of all if none does, with a division of their layers."""
    num_layers = problem.model.num_layers
    listed = {field: value for field, value in problem.pins.items() if field == RECOMPUTE}
    free = msgspec.structs.replace(
        problem, pins=listed, stack=msgspec.structs.replace(problem.stack, uneven_stages=True)
    )
    for asked, memories in ((problem, where), (problem, [_unlimited]), (free, [_unlimited])):
        limits = stage_limits(asked, columns, memories, interleaved_is_even=asked is problem)
        fits = limits.fitting_layouts(num_layers)
        if fits.any():
            limits = limits.take_layouts(fits)
            return with_least_peak(problem, limits.stages.with_layers(deal_evenly(limits, limits.most, num_layers)))
    raise ValueError("every layout has more stages than layers")


def _nearest(stages: StageColumns, need: Floats) -> tuple[int, int]:
    """Layout whose largest ``need`` is the least, and the row of the stage that has it."""
    starts = stages.first_rows()
    start = int(starts[np.maximum.reduceat(need, starts).argmin()])
    stop = start + int(stages.layouts.pipeline_parallel[start])
    return int(stages.layout_row[start]), start + int(need[start:stop].argmax())


def _layout(problem: Problem, stages: StageColumns, layout_row: int) -> Layout:
    rows = np.flatnonzero(stages.layout_row == layout_row)
    layers, recompute = stages.num_layers[rows].tolist(), stages.recompute_layers[rows].tolist()
    return stages.layouts.layout(int(rows[0]), layers, recompute, problem.precision)
