"""What makes a loss a fault, and what is done about it."""

import math
from typing import Any

import pytest

from planner.jobs.faults import DEVIATION, Fault, LossWatch, passed_over
from planner.jobs.job import FaultsSection, Job

LOSSES = [4.0, 4.2, 3.8, 4.1, 3.9, 4.0, 4.3, 3.7]
"""Median 4.0; distances from it 0, 0.2, 0.2, 0.1, 0.1, 0, 0.3, 0.3, whose median is 0.15."""


def watch(losses: list[float] = LOSSES, faults: tuple[int, ...] = (), **settings: Any) -> LossWatch:
    return LossWatch(FaultsSection(**{"spike": "rewind", "spike_window": 8, **settings}), losses, faults)


def test_a_spike_is_so_many_deviations_above_the_median() -> None:
    most = 4.0 + 10 * DEVIATION * 0.15
    assert watch().judge(9, most) is None
    fault = watch().judge(9, most + 1e-6)
    assert fault is not None
    assert (fault.kind, fault.step, fault.action) == ("spike", 9, "rewind")
    assert fault.most == pytest.approx(most)
    assert fault.message == "the loss of step 9, 6.2239, is a spike: it is above 6.2239"
    assert watch(spike_deviations=20).judge(9, most + 1e-6) is None
    assert watch(spike="ignore").judge(9, 1e9) is None
    assert watch().judge(9, 0.0) is None, "a loss that falls is no spike"


def test_losses_that_hardly_differ_make_no_spike() -> None:
    assert watch([2.0] * 8).judge(9, 2.0 + 10 * 2e-3 - 1e-9) is None
    assert watch([2.0] * 8).judge(9, 2.0 + 10 * 2e-3 + 1e-9) is not None


def test_nothing_is_a_spike_before_half_a_window() -> None:
    assert watch(LOSSES[:3]).judge(4, 1e9) is None
    assert watch(LOSSES[:4]).judge(5, 1e9) is not None


def test_a_spike_does_not_move_the_window() -> None:
    one = watch(max_faults=100)
    assert all(one.judge(step, 50.0) is not None for step in range(9, 30))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_fault_whatever_a_spike_is(loss: float) -> None:
    fault = watch([], spike="ignore", not_finite="skip").judge(1, loss)
    assert fault == Fault("not_finite", 1, loss, "skip") or math.isnan(loss)
    assert fault is not None
    assert fault.message == f"the loss of step 1 is {loss}"


def test_there_are_so_many_faults_and_one_more_stops() -> None:
    one = watch(faults=(3, 5), max_faults=3, not_finite="skip")
    again = one.judge(5, math.nan)
    assert again is not None
    assert again.action == "skip", "a step that is done again counts once"
    assert [one.judge(step, math.inf) for step in (6, 7)] == [
        Fault("not_finite", 6, math.inf, "skip"),
        Fault("not_finite", 7, math.inf, "stop", is_limit=True),
    ]


def test_only_a_skip_has_to_know_the_loss_before_the_update() -> None:
    assert watch(not_finite="skip", spike="stop").before_update
    assert watch(spike="skip").before_update
    assert not watch(not_finite="rewind", spike="rewind").before_update


def test_a_rewind_passes_over_the_batch_of_the_fault_and_those_before() -> None:
    fault = Fault("spike", 5, 9.0, "rewind", 4.0)
    assert list(passed_over(fault, FaultsSection(pass_over=3))) == [3, 4, 5]
    assert list(passed_over(fault, FaultsSection(pass_over=9))) == [1, 2, 3, 4, 5]


def test_what_is_done_about_losses_belongs_to_what_is_learned() -> None:
    assert Job(faults=FaultsSection(max_restarts=3, restart_wait_s=9)).digest == Job().digest
    assert Job(faults=FaultsSection(not_finite="skip")).digest != Job().digest
