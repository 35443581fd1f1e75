"""One row through the cost model."""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from planner.cost_model import predict
from planner.cost_model.reserve import device_overhead_bytes, fragmentation_share
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from planner.plans.prediction import Prediction, StagePrediction
from planner.rules import ALL_RULES, ids_about, violations
from planner.specs import HardwareSpec
from planner.validation import published, recorded, seed
from planner.validation.cases import Case, MemoryKind, SkippedRow, StageRead
from planner.validation.tables import PUBLISHED, RECORDED, SEED, Dialect, Row

MAPPERS: dict[str, Callable[[Row], Case]] = {
    PUBLISHED.name: published.case_of,
    RECORDED.name: recorded.case_of,
    SEED.name: seed.case_of,
}
EXEMPT_RULES = ids_about("engine")
"""Rules of what Colossal-AI executes: other stacks run such pipelines, and the formulas hold for them."""


class Replay(NamedTuple):
    """A row with its case and prediction, or the reason why it was left out."""

    row: Row
    case: Case | None = None
    predicted: Prediction | None = None
    memory_bytes: dict[MemoryKind, float] = {}  # noqa: RUF012 - never written to
    """Predicted counterpart of each measured reading."""
    outcome: str | None = None
    skipped: str | None = None


def replay(row: Row, dialect: Dialect, hardware: HardwareSpec | None = None) -> Replay:
    """Predict one row, on ``hardware`` instead of the card it names if that is given.

    Raises:
        PlanError: a cell of the row is no number or no known word.
    """
    try:
        case = MAPPERS[dialect.name](row)
        if hardware is not None:
            case = _on(case, hardware)
        predicted = _predict(case)
    except SkippedRow as reason:
        return Replay(row, skipped=str(reason))
    stage = _stage_read(predicted, case.measured.stage)
    return Replay(
        row,
        case=case,
        predicted=predicted,
        memory_bytes={kind: _reading(stage, kind) for kind in case.measured.memory_bytes},
        outcome="fit" if _fits(predicted, case.problem, case.layout) else "oom",
    )


def _on(case: Case, hardware: HardwareSpec) -> Case:
    if case.problem.precision not in hardware.peak_flops_per_s:
        raise SkippedRow(f"{hardware.name} has no {case.problem.precision}")
    problem = msgspec.structs.replace(case.problem, hardware=hardware)
    return Case(problem=problem, layout=case.layout, measured=case.measured, assumptions=case.assumptions)


def _predict(case: Case) -> Prediction:
    broken = [finding for finding in violations(case.problem, case.layout) if finding.rule not in EXEMPT_RULES]
    if broken:
        stack = case.problem.stack.name
        raise SkippedRow(f"breaks {broken[0].rule} of stack {stack}: {_title(broken[0].rule)}")
    try:
        return predict(case.problem, case.layout)
    except NotImplementedError as error:
        raise SkippedRow(str(error)) from error


def _stage_read(predicted: Prediction, stage: StageRead) -> StagePrediction:
    if stage != "fullest":
        return predicted.stages[0 if stage == "first" else -1]
    return max(predicted.stages, key=lambda stage: stage.peak_bytes)


def _title(rule_id: str) -> str:
    return next(rule.title for rule in ALL_RULES if rule.id == rule_id)


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
