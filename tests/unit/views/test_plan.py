"""What a plan's print says of its prediction."""

import pytest

from planner.cost_model.errors import KINDS
from planner.plans.prediction import ExpectedError


def words(basis: str, runs: int = 6) -> str:
    return ExpectedError(memory=0.0097, step_time=0.087, runs=runs, basis=basis).words("h100-80g")


def test_expected_errors_name_their_runs() -> None:
    assert words("pipeline") == "8.7% of the step time (8.7% in 6 measured runs with pipelines), 1.0% of the memory"


def test_expected_errors_of_all_runs_name_no_kind() -> None:
    assert " with " not in words("all")


def test_expected_errors_of_a_stack_without_runs_say_so() -> None:
    assert words("none", runs=0) == "8.7% of the step time (no run of this stack was measured), 1.0% of the memory"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_layout_has_words(kind: str) -> None:
    assert " runs with " in words(kind)
