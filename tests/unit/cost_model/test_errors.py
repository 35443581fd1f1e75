"""Expected errors and the margin that follows from them."""

from typing import Any

import pytest

from benchmarks.transfer import with_host_times
from planner.cost_model.errors import KINDS, UNMEASURED, error_of, expected_error, kind_columns, transfer_error
from planner.layouts.layout import Offload
from planner.specs import ErrorSpec
from tests.helpers import changed, problem, stages, tiny_llama, tiny_stack

ERRORS = {
    "all": ErrorSpec(memory=0.01, step_time=0.2, runs=20),
    "pipeline": ErrorSpec(memory=0.03, step_time=0.1, runs=5),
}


@pytest.mark.parametrize(
    ("divided", "kind"),
    [
        ({}, "data"),
        ({"data_parallel": 4, "zero_stage": 2}, "data"),
        ({"tensor_parallel": 2}, "tensor"),
        ({"tensor_parallel": 2, "pipeline_parallel": 2}, "pipeline"),
        ({"data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu")}, "offload"),
        ({"data_parallel": 2, "zero_stage": 3, "offload": Offload(optimizer=1.0, tier="cpu")}, "sharded"),
        ({"tensor_mode": "2d", "tensor_parallel": 4, "pipeline_parallel": 2}, "grid"),
    ],
)
def test_kinds_are_what_is_hardest_to_predict(divided: Any, kind: str) -> None:
    assert KINDS[int(kind_columns(stages(**divided).layouts)[0])] == kind


def test_error_of_a_kind_else_of_all_else_of_a_stack_never_measured() -> None:
    stack = tiny_stack(errors=ERRORS)
    assert error_of(stack, "pipeline") == ("pipeline", ERRORS["pipeline"])
    assert error_of(stack, "grid") == ("all", ERRORS["all"])
    basis, unmeasured = error_of(tiny_stack(errors={}), "grid")
    assert (basis, unmeasured.runs) == ("none", 0)
    assert unmeasured.memory > ERRORS["all"].memory


def test_expected_error_names_what_it_rests_on() -> None:
    expected = expected_error(problem(stack={"errors": ERRORS}), stages(pipeline_parallel=2).layouts)
    assert (expected.basis, expected.memory, expected.step_time, expected.runs) == ("pipeline", 0.03, 0.1, 5)


ELSEWHERE = {"errors": ERRORS, "measured_on": ("other-gpu",), "transfer_error": 0.15, "calibrated_transfer_error": 0.05}


def test_transfer_error_widens_hardware_without_runs_and_less_if_it_is_calibrated() -> None:
    assert transfer_error(problem(stack=ELSEWHERE)) == 0.15
    assert transfer_error(problem(stack=ELSEWHERE, hardware={"calibrated": True})) == 0.05
    assert transfer_error(problem(stack=ELSEWHERE, hardware={"name": "other-gpu"})) == 0.0
    assert transfer_error(problem(stack=ELSEWHERE | {"measured_on": ()})) == 0.0


def test_transfer_error_of_a_processor_is_that_of_a_stack_never_measured() -> None:
    for calibrated in (False, True):
        slow = problem(stack=ELSEWHERE, hardware={"device": "cpu", "calibrated": calibrated})
        assert transfer_error(slow) == UNMEASURED.step_time
    wide = expected_error(slow, stages(pipeline_parallel=2).layouts)
    assert (wide.step_time, wide.transfer, wide.memory) == pytest.approx((0.1 + UNMEASURED.step_time, 0.3, 0.03))


def test_expected_error_says_what_is_carried_over() -> None:
    layouts = stages(pipeline_parallel=2).layouts
    wide = expected_error(problem(stack=ELSEWHERE), layouts)
    assert (wide.step_time, wide.transfer, wide.memory) == pytest.approx((0.25, 0.15, 0.03))
    near = expected_error(problem(stack=ELSEWHERE, hardware={"calibrated": True}), layouts)
    assert (near.step_time, near.transfer, near.memory) == pytest.approx((0.15, 0.05, 0.03))


def test_expected_error_of_a_stack_never_measured_is_no_wider_elsewhere() -> None:
    unknown = expected_error(problem(stack=ELSEWHERE | {"errors": {}}), stages().layouts)
    assert (unknown.step_time, unknown.transfer, unknown.runs, unknown.basis) == (0.3, 0.0, 0, "none")


def test_host_times_of_another_stack_leave_the_rest() -> None:
    slow = tiny_stack(traffic={"layer_host_s": 2.0, "kernels": 99.0}, sharded={"layer_host_s": 3.0})
    mixed = with_host_times(tiny_stack(), slow)
    assert (mixed.traffic.layer_host_s, mixed.sharded.layer_host_s, mixed.traffic.kernels) == (2.0, 3.0, 5.0)


def test_expected_error_of_a_model_with_other_parts_is_that_of_a_stack_never_measured() -> None:
    asked = changed(problem(stack={"errors": ERRORS}), model=tiny_llama())
    found = expected_error(asked, stages().layouts)
    assert (found.runs, found.basis, found.memory) == (0, "none", UNMEASURED.memory)
