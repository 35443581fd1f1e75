"""What a plan's print says of its prediction."""

import pytest

from planner.cost_model.errors import KINDS
from planner.explain import error_words
from planner.prediction import ExpectedError


def test_expected_errors_name_their_runs() -> None:
    error = ExpectedError(memory=0.0097, step_time=0.087, runs=6, basis="pipeline")
    assert error_words(error) == "1.0% of the memory, 8.7% of the step time (mean of 6 measured runs with pipelines)"


def test_expected_errors_of_all_runs_name_no_kind() -> None:
    error = ExpectedError(memory=0.01, step_time=0.1, runs=30, basis="all")
    assert error_words(error).endswith("(mean of 30 measured runs)")


def test_expected_errors_of_a_stack_without_runs_say_so() -> None:
    error = ExpectedError(memory=0.05, step_time=0.3, runs=0, basis="none")
    assert error_words(error) == (
        "5.0% of the memory, 30.0% of the step time (taken for a stack that was never measured)"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layout_has_words(kind: str) -> None:
    error = ExpectedError(memory=0.01, step_time=0.1, runs=2, basis=kind)
    assert " runs with " in error_words(error)
