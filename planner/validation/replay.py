"""One row through the cost model."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np

from planner.cost_model import predict
from planner.cost_model.errors import kind_of
from planner.cost_model.intervals import fits_probabilities, memory_interval, step_interval
from planner.cost_model.reserve import device_overhead_bytes, fragmentation_share, room
from planner.diagnostics import Diagnostic, PlanError
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from planner.plans.prediction import Prediction, StagePrediction
from planner.rules import RULES
from planner.specs import HardwareSpec
from planner.validation import published, recorded, seed
from planner.validation.cases import MEMORY_KINDS, Case, MemoryKind, SkippedRow, StageRead
from planner.validation.facts import KnownFacts
from planner.validation.tables import PUBLISHED, RECORDED, SEED, Dialect, Row

MAPPERS: dict[str, Callable[[Row, KnownFacts | None], Case]] = {
    PUBLISHED.name: published.case_of,
    RECORDED.name: recorded.case_of,
    SEED.name: seed.case_of,
}


class Sureness(NamedTuple):
    """How sure a row's prediction is, by the runs of all tables but its own."""

    step_s: tuple[float, float]
    """Least and most that its step takes with a probability of 90 %."""
    memory_bytes: tuple[float, float] | None
    """The same of its finest reading of memory; ``None`` without one."""
    fits_probability: float


class Replay(NamedTuple):
    """A row with its case and prediction, or the reason why it was left out."""

    row: Row
    case: Case | None = None
    predicted: Prediction | None = None
    memory_bytes: dict[MemoryKind, float] = {}  # noqa: RUF012 - never written to
    """Predicted counterpart of each measured reading."""
    outcome: str | None = None
    sureness: Sureness | None = None
    skipped: str | None = None


def replay(row: Row, dialect: Dialect, hardware: HardwareSpec | None = None, known: KnownFacts | None = None) -> Replay:
    """Predict one row, on ``hardware`` instead of the card it names if that is given.

    A row with a cell that is no number or no known word is left out with that reason, as one that cannot be replayed.
    """
    try:
        case = MAPPERS[dialect.name](row, known)
        predicted = _predict(case if hardware is None else (case := _on(case, hardware)))
    except SkippedRow as reason:
        return Replay(row, skipped=str(reason))
    except PlanError as error:
        return Replay(row, skipped=_wrong_cell(error.diagnostics[0]))
    stage = _stage_read(predicted, case.measured.stage)
    memory = {kind: _reading(stage, kind) for kind in case.measured.memory_bytes}
    return Replay(
        row,
        case=case,
        predicted=predicted,
        memory_bytes=memory,
        sureness=_sureness(row.set_name, case, predicted, memory),
        outcome="fit" if _fits(predicted, case.problem, case.layout) else "oom",
    )


def _wrong_cell(finding: Diagnostic) -> str:
    """What is wrong with a row's cell, with its column and without its line, so that like rows are counted together."""
    column = finding.location.rpartition(": column ")[2] if ": column " in finding.location else ""
    return f"{column}: {finding.message}" if column else finding.message


def _on(case: Case, hardware: HardwareSpec) -> Case:
    if case.problem.precision not in hardware.peak_flops_per_s:
        raise SkippedRow(f"{hardware.name} has no {case.problem.precision}")
    return dataclasses.replace(case, problem=msgspec.structs.replace(case.problem, hardware=hardware))


def _predict(case: Case) -> Prediction:
    # Other stacks run the pipelines that Colossal-AI's engine refuses, and the formulas hold for them.
    broken = (rule for rule in RULES if "engine" not in rule.about and not rule.holds_for(case.problem, case.layout))
    if rule := next(broken, None):
        raise SkippedRow(f"breaks {rule.id} of stack {case.problem.stack.name}: {rule.title}")
    try:
        return predict(case.problem, case.layout)
    except NotImplementedError as error:
        raise SkippedRow(str(error)) from error


def _sureness(table: str, case: Case, predicted: Prediction, memory: dict[MemoryKind, float]) -> Sureness:
    problem, kind, stages = case.problem, kind_of(case.layout), stages_of_layout(case.layout)
    low, high = step_interval(problem, kind, table)
    peaks = np.array([float(stage.peak_bytes) for stage in predicted.stages])
    chances = fits_probabilities(problem, kind, room(problem, stages, peaks).tolist(), table)
    finest = next((reading for reading in MEMORY_KINDS if reading in memory), None)
    interval = None
    if finest is not None:
        least, most = memory_interval(problem, kind, finest, table)
        interval = least * memory[finest], most * memory[finest]
    return Sureness((low * predicted.step_s, high * predicted.step_s), interval, min(chances))


def _stage_read(predicted: Prediction, stage: StageRead) -> StagePrediction:
    if stage != "fullest":
        return predicted.stages[0 if stage == "first" else -1]
    return max(predicted.stages, key=lambda stage: stage.peak_bytes)


def _fits(predicted: Prediction, problem: Problem, layout: Layout) -> bool:
    """Whether the run fits by the best estimate: without the margin for errors that a plan leaves.

    Fragments are room that tensors of activations still find, but no flat buffer of an optimizer step.
    """
    stages, flat = stages_of_layout(layout), problem.stack.process.flat_step_buffers
    taken = 1.0 + fragmentation_share(problem, stages) * flat
    rows = zip(predicted.stages, taken, device_overhead_bytes(problem, stages), strict=True)
    on_device = all(stage.peak_bytes * share + beside <= stage.capacity_bytes for stage, share, beside in rows)
    host = problem.hardware.host
    return (
        on_device
        and predicted.host_bytes_per_node <= host.memory_bytes
        and predicted.nvme_bytes_per_node <= host.nvme_capacity_bytes
    )


def _reading(stage: StagePrediction, kind: MemoryKind) -> float:
    """What a reading of that kind would show of one stage."""
    shown = {"allocated": stage.peak_bytes, "reserved": stage.reserved_bytes, "device": stage.device_bytes}
    return float(shown[kind])
