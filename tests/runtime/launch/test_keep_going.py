"""Runs whose ranks are killed go on by themselves, and under another plan where devices are gone."""

from pathlib import Path

import pytest

from benchmarks.kill_ranks import disturbed, solve, undisturbed, worst_difference
from planner.plans.plan import read_plan

pytestmark = pytest.mark.runtime

STEPS, KILLS = 40, 4


def test_a_run_whose_ranks_are_killed_has_the_losses_of_one_without_a_break(tmp_path: Path) -> None:
    plan, folder = solve(tmp_path), tmp_path / "out"
    found = disturbed(plan, folder, STEPS, kills=KILLS, seed=1, changes=(10, 24))
    assert found.kills == KILLS, found.output
    assert worst_difference(found.losses, undisturbed(plan, tmp_path / "whole", STEPS)) < 1e-6
    replans = [one for one in found.events if one["event"] == "replan"]
    assert [(one["before_devices"], one["after_devices"]) for one in replans] == [(4, 2), (2, 4)], found.output
    few, again = read_plan(folder / "plan-1"), read_plan(folder / "plan-2")
    assert (few.layout.num_devices, few.layout.pipeline_parallel) == (2, 2)
    assert few.problem.global_batch == again.problem.global_batch
    assert replans[0]["after_step_s"] == few.predicted.step_s
    assert again == read_plan(folder / "plan") == read_plan(plan)
    restarts = [one for one in found.events if one["event"] == "restart"]
    assert restarts[-1]["restarts"] in {KILLS - 1, KILLS}  # the rank that goes with its device may have saved before
    assert all(0 < one["downtime_s"] < 120 for one in restarts)
    assert "2 devices are there: TP 1 x PP 2" in found.output
    assert "s after the last one: its ranks ended with 137" in found.output
