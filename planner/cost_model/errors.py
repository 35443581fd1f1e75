"""How far off a prediction may be, from what predictions of the same stack and kind of layout missed by."""

import msgspec
import numpy as np

from planner.cost_model.parts import counted_whole
from planner.cost_model.sources import formula
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.plans.prediction import ExpectedError
from planner.specs import ErrorSpec, StackSpec

KINDS = ("grid", "sharded", "offload", "pipeline", "tensor", "data")
"""Kinds of layouts by what is hardest to predict of them, the hardest first."""
UNMEASURED = ErrorSpec(memory=0.05, step_time=0.3, runs=0)
"""Taken for a stack that was never measured: gptplan's own limits of what is worth answering."""


def kind_columns(columns: LayoutColumns) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Index into :data:`KINDS` of every layout."""
    holds = [
        columns.mode_is("2d", "2.5d", "3d"),
        columns.zero_stage >= SHARDS_WEIGHTS,
        columns.offload_tier > 0,
        columns.pipeline_parallel > 1,
        (columns.tensor_parallel > 1) | (columns.sequence_parallel_degree > 1),
    ]
    return np.select(holds, range(len(holds)), default=len(holds)).astype(np.int64)


def kind_of(layout: Layout) -> str:
    """The kind of a layout, one of :data:`KINDS`."""
    return KINDS[int(kind_columns(columns_of(layout))[0])]


def error_of(stack: StackSpec, kind: str) -> tuple[str, ErrorSpec]:
    """The error of a kind, else of all measured runs of the stack, with the name of what it rests on."""
    for name in (kind, "all"):
        if name in stack.errors:
            return name, stack.errors[name]
    return "none", UNMEASURED


def expected_error(problem: Problem, columns: LayoutColumns) -> ExpectedError:
    """What the prediction of one layout may miss by; of a model with other parts than the runs' nothing is measured."""
    basis, error = error_of(_measured(problem), KINDS[int(kind_columns(columns)[0])])
    transfer = transfer_error(problem) if error.runs else 0.0
    return ExpectedError(
        memory=error.memory, step_time=error.step_time + transfer, runs=error.runs, basis=basis, transfer=transfer
    )


def _measured(problem: Problem) -> StackSpec:
    """The stack, without what its runs of GPT-2's parts missed by where the model has others."""
    counted = counted_whole(problem.model)
    return problem.stack if counted else msgspec.structs.replace(problem.stack, errors={})


@formula("definition")
def transfer_error(problem: Problem) -> float:
    """Added to the step-time error where no runs stand behind the hardware; less where it was calibrated.

    On a processor none of the stack's counts of kernels holds, calibrated or not: the error of a stack never
    measured comes on top. Memory is a count of bytes, which the card does not change. A share of the step time.
    """
    stack, hardware = problem.stack, problem.hardware
    if not stack.measured_on or hardware.name in stack.measured_on:
        return 0.0
    if hardware.device == "cpu":
        return UNMEASURED.step_time
    return stack.calibrated_transfer_error if hardware.calibrated else stack.transfer_error
