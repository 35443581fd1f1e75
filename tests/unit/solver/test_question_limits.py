"""Questions with more to judge than a minute and 2 GB allow are refused with the limit."""

from typing import Any

import pytest

from planner.diagnostics import PlanError
from planner.layouts.problem import MAX_DEVICES, Problem
from planner.solver import counts, min_devices, search, solve
from planner.solver.candidates import enumerate_layouts
from planner.solver.min_devices import least_devices
from planner.solver.why_not import conflict, refusal, relaxed
from planner.specs.units import Bytes
from tests.helpers import problem, slow_hardware


def tight(**overrides: Any) -> Problem:
    """A problem of which no layout fits."""
    return problem(hardware=slow_hardware(memory_bytes=Bytes(60_000)), **overrides)


def refused(question: Problem) -> str:
    with pytest.raises(PlanError) as caught:
        solve(question)
    (finding,) = caught.value.diagnostics
    assert f"{question.num_devices:,} devices" in finding.message
    assert finding.hint
    return finding.message


def test_too_many_layouts() -> None:
    with pytest.raises(PlanError, match="more than 3 layouts"):
        enumerate_layouts(problem(), most=3)


def test_too_many_stages_of_valid_layouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST_STAGES", 5)
    assert "and 5 can be ranked" in refused(problem())


@pytest.mark.parametrize(
    ("room", "limit", "words"),
    [
        (relaxed, "MOST_RELAXED", "no answer, and more than 1 layouts near it"),
        (conflict, "MOST_STAGES", "no answer, and layouts near it with more than 1 stages"),
        (refusal, "MOST_STAGES", "stages of layouts that would come near one"),
    ],
)
def test_too_many_to_say_why(room: Any, limit: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, limit, 1)
    assert words in refused(tight())


@pytest.mark.parametrize("limit", ["MOST_COUNTS", "MOST_ROWS"])
def test_too_many_counts(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    question = tight(num_devices=7, global_batch=5)
    tried = least_devices(question)
    assert tried.num_devices is None
    first = tried.excluded_by_bound + 1
    monkeypatch.setattr(min_devices, limit, 1)
    with pytest.raises(PlanError, match=f"no count of GPUs up to {first} has a layout that fits"):
        least_devices(question)


def test_the_search_for_another_count_ends_where_layouts_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    question = tight(global_batch=4)
    bound = counts.excluded_by_bound(
        counts.state_floor_bytes(question), counts.most_usable_bytes(question), MAX_DEVICES
    )
    assert counts.nearest_counts(question).tried_to > max(question.num_devices, bound)
    monkeypatch.setattr(counts, "MAX_ROWS", 0)
    assert counts.nearest_counts(question).tried_to == max(question.num_devices, bound)
