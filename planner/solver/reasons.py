"""Why there is no layout: the rules in the way, or the nearest miss in memory."""

import msgspec
import numpy as np

from planner.candidates import enumerate_layouts
from planner.cost_model.memory import PHASES, host_bytes_per_rank, reserve_bytes, stage_memory
from planner.cost_model.terms import total
from planner.diagnostics import Diagnostic
from planner.layout import Layout, LayoutColumns
from planner.problem import Problem
from planner.rules import RULES, judge
from planner.rules.capacity import DEVICE_MEMORY, HOST_MEMORY
from planner.rules.rule import Rule
from planner.solver.limits import fits_device, stage_limits
from planner.stages import Floats, StageColumns, stages_of
from planner.units import format_gib

MAX_NEIGHBOUR = 64
"""How far from the asked device count a valid one is looked for."""


def why_nothing_is_valid(problem: Problem) -> list[Diagnostic]:
    """For each tensor / pipeline / data split that comes nearest to valid, the rule in its way.

    A split is nearest where a layout breaks a single rule; one example is given for each such rule.
    """
    columns = enumerate_layouts(problem)
    rules = [rule for rule in RULES if rule.holds is not None]
    broken = np.array([~rule.holds(problem, columns) for rule in rules if rule.holds is not None])
    nearest = broken.sum(axis=0) == broken.sum(axis=0).min()
    diagnostics = []
    for rule, hit in zip(rules, broken & nearest, strict=True):
        if hit.any():
            diagnostics.append(_diagnose_row(problem, rule, columns, int(np.flatnonzero(hit)[0])))
    return [*diagnostics, *_neighbours(problem)]


def _diagnose_row(problem: Problem, rule: Rule, columns: LayoutColumns, row: int) -> Diagnostic:
    stages = int(columns.pipeline_parallel[row])
    layers = [problem.model.num_layers // stages] * stages
    layout = columns.layout(row, layers, [0] * stages, problem.precision)
    diagnostic = rule.diagnose(problem, layout)
    place = f"TP {layout.tensor_parallel} x PP {stages} x DP {layout.data_parallel}"
    return msgspec.structs.replace(diagnostic, location=f"{diagnostic.location} ({place})")


def _neighbours(problem: Problem) -> list[Diagnostic]:
    """The nearest device counts below and above that have a valid layout."""
    asked = problem.num_devices
    below = next((n for n in range(asked - 1, max(0, asked - MAX_NEIGHBOUR), -1) if _has_valid(problem, n)), None)
    above = next((n for n in range(asked + 1, asked + MAX_NEIGHBOUR) if _has_valid(problem, n)), None)
    counts = [str(count) for count in (below, above) if count is not None]
    if not counts:
        return []
    return [
        Diagnostic(
            rule="DEV002",
            severity="note",
            message=f"the nearest GPU counts with a valid layout are {' and '.join(counts)}",
            values={"num_devices": asked, "valid": counts},
            hint=f"use --gpus {counts[-1]}",
        )
    ]


def _has_valid(problem: Problem, num_devices: int) -> bool:
    other = msgspec.structs.replace(problem, num_devices=num_devices)
    valid, _ = judge(other, enumerate_layouts(other))
    return bool(valid.any())


def why_nothing_fits(problem: Problem, columns: LayoutColumns) -> list[Diagnostic]:
    """The valid layout that comes nearest to fitting, with even stages, in numbers.

    The host is named only where a layout fits all devices and fails on the host alone.
    """
    fit_device = stage_limits(problem, columns, [fits_device]).fitting_layouts(problem.model.num_layers)
    if fit_device.any():
        return [_nearest_host_miss(problem, columns.take(fit_device))]
    return [_nearest_device_miss(problem, columns)]


def _even_stages(problem: Problem, columns: LayoutColumns) -> StageColumns:
    stages = stages_of(columns)
    layers, more = np.divmod(problem.model.num_layers, stages.layouts.pipeline_parallel)
    return stages.with_layers(layers + (stages.stage < more))


def _nearest(stages: StageColumns, need: Floats) -> tuple[int, int]:
    """Layout whose largest ``need`` is the least, and the row of the stage that has it."""
    starts = stages.first_rows()
    layout_row = int(np.maximum.reduceat(need, starts).argmin())
    start = int(starts[layout_row])
    stop = start + int(stages.layouts.pipeline_parallel[start])
    return layout_row, start + int(need[start:stop].argmax())


def _layout(problem: Problem, stages: StageColumns, layout_row: int) -> Layout:
    rows = np.flatnonzero(stages.layout_row == layout_row)
    layers, recompute = stages.num_layers[rows].tolist(), stages.recompute_layers[rows].tolist()
    return stages.layouts.layout(int(rows[0]), layers, recompute, problem.precision)


def _nearest_device_miss(problem: Problem, columns: LayoutColumns) -> Diagnostic:
    stages = _even_stages(problem, columns)
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
    )
    message = f"no valid layout fits; in the nearest one {diagnostic.message}"
    return msgspec.structs.replace(diagnostic, message=message)


def _nearest_host_miss(problem: Problem, columns: LayoutColumns) -> Diagnostic:
    stages = _even_stages(problem, columns)
    need = host_bytes_per_rank(problem, stages) * min(problem.devices_per_node, problem.num_devices)
    layout_row, fullest = _nearest(stages, need)
    diagnostic = HOST_MEMORY.diagnose(
        problem,
        _layout(problem, stages, layout_row),
        need=format_gib(need[fullest]),
        capacity=format_gib(problem.hardware.host.memory_bytes),
    )
    message = f"no valid layout fits; in the nearest one {diagnostic.message}"
    return msgspec.structs.replace(diagnostic, message=message)
