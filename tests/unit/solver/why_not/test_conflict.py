"""Conflicts of questions with a known reason, and hitting sets worked out by hand."""

from typing import Any

import pytest

from planner.layouts.problem import Problem
from planner.plans.question import Question, build_problem
from planner.solver import Answer, solve
from planner.solver.why_not.conflict import conflicts_of, smallest_hitting_set
from planner.solver.why_not.relaxed import relaxed_layouts
from planner.solver.why_not.requirements import Requirement, requirements
from planner.views.why_not import reasons_of
from tests.helpers import problem

A, B, C, D = (Requirement(rule=letter) for letter in "ABCD")


def ask(model: str = "gpt3", **options: Any) -> Answer:
    return solve(build_problem(Question(model=model, **options)))


def conflict_of(answer: Answer) -> list[str]:
    """Rules of the conflict, and the pins and forbidden values in it as typed."""
    named = reasons_of(answer)[0].values["requirements"]
    return [f"{one['field']}={one['value']}" if one["field"] else one["rule"] for one in named]


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ([{A}], (A,)),
        ([{A, B}, {B, C}], (B,)),
        ([{A, B}, {C, D}], (A, C)),
        ([{A, B, C, D}], (A,)),
        ([{D}, {A, B}, {B, C}], (B, D)),
        ([{A, B}, {B, C}, {A, C}], (A, B)),
    ],
)
def test_smallest_hitting_set(sets: list[set[Requirement]], expected: tuple[Requirement, ...]) -> None:
    assert smallest_hitting_set([frozenset(one) for one in sets], (A, B, C, D)) == expected


def test_an_empty_set_is_not_hit() -> None:
    with pytest.raises(ValueError, match="keeps every requirement"):
        smallest_hitting_set([frozenset({A}), frozenset()], (A,))


def test_a_problem_with_a_layout_has_no_conflict() -> None:
    with pytest.raises(ValueError, match="no conflict"):
        conflicts_of(problem(), relaxed_layouts(problem()))


def test_what_the_user_typed_comes_first_and_memory_last() -> None:
    asked = problem(pins={"zero_stage": "2"}, forbids={"tensor_parallel": ("2", "4", "2")})
    rules = [requirement.rule for requirement in requirements(asked)]
    assert rules[:4] == ["DEV001", "PIN001", "PIN002", "PIN002"]
    assert rules[-3:] == ["MEM001", "MEM002", "MEM003"]
    assert rules.count("DEV001") == 1


def test_97_gpus_divide_in_three_ways_and_each_breaks_a_rule() -> None:
    answer = ask(gpus=97)
    # Sequence parallelism and 2.5D grids of depth 97 are ways to use 97 GPUs too.
    assert conflict_of(answer) == ["DEV001", "BAT001", "TP001", "TP023", "PP001"]
    texts = {reason.rule: reason for reason in reasons_of(answer)}
    assert "1 * 15 * 97 = 1455" in texts["BAT001"].detail
    assert "97 does not divide the 96 attention heads" in texts["TP001"].message
    assert "97 stages x 1 chunks need as many layers, and gpt3-175b has 96" in texts["PP001"].message


def test_16_gpus_have_too_little_memory() -> None:
    answer = ask(gpus=16)
    assert conflict_of(answer) == ["DEV001", "OFF001", "MEM001"]
    assert reasons_of(answer)[3].message.startswith("no valid layout fits; in the nearest one the fullest stage needs")


def test_pinned_degrees_miss_the_memory_by_little() -> None:
    answer = ask(gpus=96, pin=("tensor_parallel=4", "pipeline_parallel=12"))
    assert conflict_of(answer)[:3] == ["DEV001", "tensor_parallel=4", "pipeline_parallel=12"]
    memory = next(reason for reason in reasons_of(answer) if reason.rule == "MEM001")
    assert memory.values["need_bytes"] > memory.values["room_bytes"]
    assert "TP 4 x PP 12 x DP 2" in memory.detail


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pin": ("tensor_parallel=5",)}, ["DEV001", "tensor_parallel=5"]),
        ({"pin": ("zero_stage=2", "pipeline_parallel=8")}, ["zero_stage=2", "pipeline_parallel=8", "ZER001"]),
        ({"pin": ("zero_stage=1",), "precision": "fp32"}, ["zero_stage=1", "ZER002"]),
        ({"pin": ("zero_stage=3",), "stack": "megatron"}, ["zero_stage=3", "STK003"]),
        ({"mode": "2d", "stack": "megatron"}, ["tensor_mode=2d", "STK001"]),
        ({"pin": ("micro_batch=5",)}, ["micro_batch=5", "BAT001"]),
        ({"pin": ("tensor_mode=1d", "tensor_parallel=1")}, ["tensor_mode=1d", "tensor_parallel=1"]),
        ({"pin": ("zero_stage=1",), "forbid": ("zero_stage=1",)}, ["zero_stage=1", "zero_stage=1"]),
        ({"pin": ("schedule=1f1b", "pipeline_parallel=1")}, ["schedule=1f1b", "pipeline_parallel=1", "PP002"]),
        ({"pin": ("offload.tier=cpu",)}, ["offload.tier=cpu", "OFF001"]),
        (
            {"pin": ("offload.tier=nvme",), "allow_offload": "nvme", "stack": "megatron"},
            ["offload.tier=nvme", "STK005"],
        ),
        ({"pin": ("layers_per_stage=48,47",)}, ["layers_per_stage=48,47"]),
    ],
    ids=str,
)
def test_contradicting_options_are_the_conflict(options: dict[str, Any], expected: list[str]) -> None:
    assert conflict_of(ask(gpus=96, **options)) == expected


def test_a_pinned_list_of_layers_is_said_with_its_sum() -> None:
    reason = reasons_of(ask(gpus=96, pin=("layers_per_stage=48,47",)))[1]
    assert reason.detail == "2 stages with 95 layers in all; gpt3-175b has 96 layers"


def test_what_else_a_layout_breaks_is_said() -> None:
    """Offload alone does not help: the host of the one node is too small for it."""
    reason = reasons_of(ask(gpus=8))[0]
    assert "without OFF001: TP 1 x PP 1 x DP 8 on 8 GPUs keeps the others, and breaks MEM002" in reason.detail


def test_a_memory_in_the_way_is_told_of_a_layout_that_fits_the_others() -> None:
    """The valid layouts that fit the device are too much for the host: no example of a device that is too small."""
    options: dict[str, Any] = {"gpus": 16, "pin": ("zero_stage=3", "micro_batch=3"), "allow_offload": "cpu"}
    reasons = {reason.rule: reason for reason in reasons_of(ask(**options))}
    device, host = reasons["MEM001"].values, reasons["MEM002"].values
    assert device["need_bytes"] > device["room_bytes"]
    assert host["need_bytes"] > host["capacity_bytes"]


def test_a_conflict_behind_another_one_is_told_and_ways_out_of_both_are_found() -> None:
    """Without a pipeline too this stack does not fit; without memory limits it has no pipeline."""
    answer = ask(gpus=96, stack="fsdp", pin=("pipeline_parallel=2",))
    first, second = (reason for reason in reasons_of(answer) if reason.rule == "INF001")
    assert first.message == "this requirement alone leaves no layout: MEM001"
    assert first.detail == ("without MEM001: TP 1 x PP 1 x DP 96 on 96 GPUs breaks PIN001 (--pin pipeline_parallel=2)")
    assert second.message.startswith("apart from that, these 2 requirements together leave no layout")
    assert [one["rule"] for one in second.values["requirements"]] == ["PIN001", "STK002"]
    ways = [reason for reason in reasons_of(answer) if reason.rule.startswith("WAY")]
    assert [way.rule for way in ways] == ["WAY001", "WAY004"]
    for way in ways:
        assert way.message.startswith("without any pin or forbidden value, ")
        assert way.hint.startswith("leave out every `--pin`, `--mode` and `--forbid`, and use `--gpu")
    assert ask(gpus=ways[0].values["num_devices"], stack="fsdp").plan is not None
    assert ask(gpus=96, stack="fsdp", gpu=ways[1].values["hardware"]).plan is not None


def test_ranks_that_are_no_grid_are_no_reason() -> None:
    """With TP 4 alone pinned nobody asked for 3D, which has no grid of 4 ranks."""
    assert conflict_of(ask(gpus=64, pin=("tensor_parallel=4",))) == ["DEV001", "OFF001", "MEM001"]
    assert "TP012" in conflict_of(ask(gpus=64, mode="3d", pin=("tensor_parallel=4",)))


def test_heads_that_no_degree_divides() -> None:
    """Two devices, of which neither tensor, pipeline nor data parallelism can use the second."""
    asked = problem(model={"num_heads": 1, "num_layers": 1, "global_batch": 1}, num_devices=2, global_batch=1)
    assert conflict_of(solve(asked)) == ["DEV001", "BAT001", "TP001", "PP001"]


def test_a_pinned_division_that_does_not_fit_is_told_from_one_that_does() -> None:
    """Even stages fit, so the pinned layers belong to the conflict and the numbers are those of the pinned ones."""
    options: dict[str, Any] = {"gpus": 96, "pin": ["tensor_parallel=8", "pipeline_parallel=12"]}
    assert ask(**options).plan is not None
    options["pin"].append("layers_per_stage=19,7,7,7,7,7,7,7,7,7,7,7")
    answer = ask(**options)
    assert "MEM001" in conflict_of(answer)
    assert any(one.startswith("layers_per_stage=") for one in conflict_of(answer))
    memory = next(reason for reason in reasons_of(answer) if reason.rule == "MEM001")
    assert memory.values["need_bytes"] > memory.values["room_bytes"]
    assert "(19, 7, " in memory.location


def test_a_stack_with_even_stages_only_is_named() -> None:
    stack = {"uneven_stages": False}
    asked: Problem = problem(stack=stack, num_devices=2, pins={"layers_per_stage": "3,1"})
    assert conflict_of(solve(asked)) == ["layers_per_stage=3,1", "PP011"]
    assert solve(problem(num_devices=2, pins={"layers_per_stage": "3,1"})).plan is not None


def test_each_requirement_has_a_layout_that_keeps_the_others() -> None:
    answer = ask(gpus=96, pin=("zero_stage=2", "pipeline_parallel=8"))
    assert reasons_of(answer)[0].rule == "INF001"
    assert reasons_of(answer)[0].detail.splitlines()[-1] == (
        "without ZER001: TP 12 x PP 8 x DP 1 on 96 GPUs keeps the others"
    )
    assert [reason.severity for reason in reasons_of(answer)[:4]] == ["error"] * 4
