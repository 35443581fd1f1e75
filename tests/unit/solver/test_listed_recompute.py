"""Pinned lists of recomputed layers: stages, limits, answers, and what is said where there is none."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.cost_model import predict
from planner.layouts.asked import asked_stages
from planner.layouts.layout import FREE_RECOMPUTE, LISTED_RECOMPUTE, LayoutColumns, columns_of
from planner.layouts.problem import Problem, Reserve
from planner.rules import screen, violations
from planner.solver import solve, solve_least_devices
from planner.solver.candidates import enumerate_layouts
from planner.solver.fit import fit
from planner.solver.limits import stage_limits
from planner.solver.recompute import least_peak_bytes, with_least_peak, with_needed
from planner.specs.units import Bytes
from planner.views.why_not import reasons_of
from tests.helpers import changed, layout, problem, slow_hardware

FIELD = "recompute_layers_per_stage"


def asked(recomputed: str, *, stack: dict[str, Any] | None = None, **overrides: Any) -> Problem:
    """Four layers on two devices, in a pipeline of two stages that recompute layer by layer what is listed."""
    pins = {FIELD: recomputed} | overrides.pop("pins", {})
    own = {"recompute": "per-layer"} | (stack or {})
    return problem(**{"hardware": slow_hardware(), "stack": own, "num_devices": 2, "pins": pins} | overrides)


def listed(stages: int = 2) -> LayoutColumns:
    """A layout of so many stages that recompute what a pin lists."""
    shape = {"layers_per_stage": (2,) * stages, "recompute_layers_per_stage": (1,) * stages}
    return replace(columns_of(layout(pipeline_parallel=stages, **shape)), recompute=np.array([LISTED_RECOMPUTE]))


def test_stages_recompute_what_is_listed_whatever_their_layers_are() -> None:
    question = asked("0,3")
    stages = asked_stages(question, listed())
    assert stages.may_recompute_more().tolist() == [False, False]
    for layers, recomputed in (((1, 3), (0, 3)), ((2, 4), (0, 3)), ((3, 2), (0, 2))):
        here = stages.with_layers(np.array(layers))
        assert here.recompute_layers.tolist() == list(recomputed)
        assert here.most_recomputed().tolist() == list(recomputed)
        for chosen in (with_needed(question, here), with_least_peak(question, here)):
            assert chosen.recompute_layers.tolist() == list(recomputed)
    assert stage_limits(question, listed()).fewest.tolist() == [1, 3]


def test_a_stage_needs_more_memory_with_each_layer_beside_the_listed_ones() -> None:
    question = asked("2,1", model={"num_layers": 8})
    stages = asked_stages(question, listed())
    peaks = [least_peak_bytes(question, stages.with_layers(np.full(2, count))) for count in range(9)]
    assert (np.diff(np.array(peaks), axis=0) >= 0).all()


@pytest.mark.parametrize(("pins", "stages"), [({}, 2), ({FIELD: "some"}, 2), ({FIELD: "1,2"}, 3)])
def test_no_layout_recomputes_as_listed_without_a_list_for_its_stages(pins: dict[str, str], stages: int) -> None:
    with pytest.raises(ValueError, match="recompute as listed"):
        asked_stages(problem(pins=pins), listed(stages))


def test_other_numbers_of_stages_are_candidates_that_break_the_pin() -> None:
    question = asked("1,2", num_devices=4)
    columns = enumerate_layouts(question)
    two = columns.pipeline_parallel == 2
    assert set(columns.recompute[two].tolist()) == {LISTED_RECOMPUTE}
    assert set(columns.recompute[~two].tolist()) == {FREE_RECOMPUTE}
    assert screen(question, columns)[1]["PIN001"] == np.count_nonzero(~two)
    assert set(enumerate_layouts(question, keeping_pins=True).pipeline_parallel.tolist()) == {2}


@pytest.mark.parametrize("objective", ["step-time", "memory"])
@pytest.mark.parametrize("recomputed", ["1,2", "0,3", "2,2", "0,0", "1, 0"])
def test_the_answer_has_the_listed_counts_and_its_own_worth(recomputed: str, objective: str) -> None:
    question = asked(recomputed, objective=objective)
    answer = solve(question)
    assert answer.plan is not None
    assert (answer.status, answer.plan.layout.pipeline_parallel) == ("optimal", 2)
    assert answer.plan.layout.recompute_layers_per_stage == tuple(map(int, recomputed.split(",")))
    assert violations(question, answer.plan.layout) == []
    predicted = predict(question, answer.plan.layout)
    worth = predicted.step_s if objective == "step-time" else max(stage.peak_bytes for stage in predicted.stages)
    assert answer.objective == pytest.approx(worth, rel=1e-6, abs=20)


def test_one_number_is_for_one_stage() -> None:
    answer = solve(asked("3"))
    assert answer.plan is not None
    assert answer.plan.layout.recompute_layers_per_stage == (3,)


def test_a_stage_between_the_ends_may_be_the_one_that_holds_most() -> None:
    """On devices that the ends fill with a layer or two, the middle one holds four by recomputing them."""
    long: dict[str, Any] = {
        "model": {"num_layers": 8, "max_seq_len": 512, "vocab_size": 16},
        "seq_len": 512,
        "reserve": Reserve(num_bytes=Bytes(0)),
    }
    roomy = asked("1,1,4,0,0", num_devices=5, pins={"layers_per_stage": "1,1,4,1,1"}, objective="memory", **long)
    whole = solve(roomy).plan
    assert whole is not None
    peak = Bytes(max(stage.peak_bytes for stage in whole.predicted.stages) + 1)
    tight = changed(roomy, pins={FIELD: "1,1,4,0,0"}, hardware={"memory_bytes": peak})
    columns = enumerate_layouts(tight)
    assert fit(tight, columns.take(screen(tight, columns)[0])).any()
    assert solve(tight).plan is not None


@pytest.mark.parametrize(
    ("stack", "recomputed", "expected"),
    [
        ({"recompute": "alike", "uneven_stages": False}, "1,1", (1, 1)),
        ({"recompute": "alike", "uneven_stages": False}, "2,2", (2, 2)),
        ({"recompute": "alike", "uneven_stages": False}, "1,2", None),
        ({"recompute": "all-or-nothing"}, "1,3", (1, 3)),
        ({"recompute": "all-or-nothing"}, "0,0", (0, 0)),
        ({"recompute": "all-or-nothing"}, "1,2", None),
        ({"recompute": "none"}, "0,0", (0, 0)),
        ({"recompute": "none"}, "1,2", None),
    ],
)
def test_a_stack_takes_the_lists_that_it_can_set(
    stack: dict[str, Any], recomputed: str, expected: tuple[int, int] | None
) -> None:
    answer = solve(asked(recomputed, stack=stack))
    assert (answer.plan.layout.recompute_layers_per_stage if answer.plan else None) == expected
    if answer.plan is None:
        named = {one["rule"] for one in reasons_of(answer)[0].values["requirements"]}
        assert named == {"PIN001", "RC002" if stack["recompute"] == "none" else "RC001"}


def test_stages_of_a_v_all_recompute_or_none_does() -> None:
    stack: dict[str, Any] = {"schedules": ("none", "1f1b", "zbv"), "zero_bubble_families": ("gpt2",)}
    stack["zero_bubble_tied_families"] = ("gpt2",)
    for recomputed, rules in (("1,2", None), ("0,2", {"PIN001", "RC004"})):
        answer = solve(asked(recomputed, stack=stack, pins={"schedule": "zbv"}))
        assert (answer.plan is None) == (rules is not None)
        if rules is not None:
            reasons = reasons_of(answer)
            assert {one["rule"] for one in reasons[0].values["requirements"]} == rules
            (finding,) = (reason for reason in reasons if reason.rule == "RC004")
            assert "not [0, 2] of [2, 2]" in finding.message


@pytest.mark.parametrize(
    ("recomputed", "pins", "named"),
    [
        ("1,2", {"pipeline_parallel": "1"}, {"PIN001"}),
        ("2,1", {"layers_per_stage": "1,3"}, {"PIN001"}),
        ("3,2", {}, {"PIN001", "RC003"}),
        ("1,2,1", {}, {"PIN001", "DEV001"}),
    ],
)
def test_what_stands_in_the_way_of_a_list_is_named(recomputed: str, pins: dict[str, str], named: set[str]) -> None:
    answer = solve(asked(recomputed, pins=pins))
    assert answer.plan is None
    first, *others = reasons_of(answer)
    assert {one["rule"] for one in first.values["requirements"]} == named
    fields = {one["field"] for one in first.values["requirements"]} - {""}
    assert fields == {FIELD, *pins}
    if "RC003" in named:
        (finding,) = (reason for reason in others if reason.rule == "RC003")
        assert finding.message == "2 stages that recompute some of their layers need 5 layers, not 4"


def test_the_way_out_of_a_list_that_does_not_fit_is_tried() -> None:
    long: dict[str, Any] = {"model": {"max_seq_len": 64}, "seq_len": 64, "reserve": Reserve(num_bytes=Bytes(0))}
    whole = solve(asked("2,2", objective="memory", **long)).plan
    assert whole is not None
    peak = Bytes(max(stage.peak_bytes for stage in whole.predicted.stages) + 1)
    answer = solve(asked("0,0", hardware=slow_hardware(memory_bytes=peak), pins={"data_parallel": "1"}, **long))
    assert answer.plan is None
    reasons = reasons_of(answer)
    assert {one["rule"] for one in reasons[0].values["requirements"]} >= {"PIN001", "MEM001"}
    (way,) = (reason for reason in reasons if reason.rule == "WAY002" and reason.values["field"] == FIELD)
    assert way.values["pinned"] == "0,0"


def test_the_least_number_of_devices_is_a_multiple_of_the_listed_stages() -> None:
    answer, least = solve_least_devices(asked("1,0,2", num_devices=7))
    assert least.num_devices == 3
    assert answer.plan is not None
    assert answer.plan.layout.recompute_layers_per_stage == (1, 0, 2)
