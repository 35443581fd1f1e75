"""Answers of the solver to questions with a known answer."""

from dataclasses import fields
from typing import Any

import pytest

from planner.cost_model import predict
from planner.layouts.layout import SCHEDULES
from planner.plans.question import Question, build_problem
from planner.rules import screen, violations
from planner.solver import Answer, solve
from planner.solver.candidates import enumerate_layouts
from planner.specs import StackSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import Bytes
from planner.views.why_not import reasons_of
from tests.helpers import problem, slow_hardware

OFFLOADED = {"offload.tier": "cpu", "offload.optimizer": "1.0", "zero_stage": "1"}


def ask(**overrides: Any) -> Answer:
    hardware = slow_hardware(**overrides.pop("hardware", {}))
    return solve(problem(hardware=hardware, **overrides))


def rules_of(answer: Answer) -> list[str]:
    return [reason.rule for reason in reasons_of(answer)]


def test_one_device_has_one_mesh() -> None:
    answer = ask(num_devices=1)
    assert answer.plan is not None
    assert answer.plan.layout.num_devices == 1
    assert answer.status == "optimal"


def test_nothing_valid_names_the_rule_in_the_way_and_a_device_count() -> None:
    answer = ask(num_devices=7, global_batch=8)
    assert (answer.status, answer.plan, answer.objective) == ("infeasible", None, None)
    assert {"BAT001", "PP001"} <= set(rules_of(answer))
    counts = [reason.values["num_devices"] for reason in reasons_of(answer) if reason.rule == "WAY001"]
    assert counts == [6, 8]


def test_nothing_fits_names_the_nearest_miss() -> None:
    answer = ask(hardware={"memory_bytes": Bytes(20_000)})
    assert answer.status == "infeasible"
    assert rules_of(answer)[:2] == ["INF001", "MEM001"]
    assert reasons_of(answer)[1].message.startswith("no valid layout fits; in the nearest one the fullest stage needs")
    assert answer.space.rejected["MEM001"] == answer.space.valid
    assert answer.space.fit == 0


def test_a_host_that_is_too_small_is_named() -> None:
    """The device has room for everything; only the host of the offloaded states has not.

    Each of two pins keeps the states on the host, so that each is in a conflict of its own.
    """
    answer = ask(hardware={"host": {"memory_bytes": Bytes(1000)}}, allow_offload="cpu", pins=OFFLOADED)
    assert answer.status == "infeasible"
    errors = [reason.rule for reason in reasons_of(answer) if reason.severity == "error"]
    assert errors == ["INF001", "PIN001", "MEM002", "INF001", "PIN001", "OFF002", "MEM002"]
    assert {reason.values["field"] for reason in reasons_of(answer) if reason.rule == "PIN001"} == {
        "offload.optimizer",
        "offload.tier",
    }


def test_offload_that_fits_the_host_is_used_when_pinned() -> None:
    answer = ask(allow_offload="cpu", pins=OFFLOADED)
    assert answer.plan is not None
    assert answer.plan.layout.offload.tier == "cpu"
    assert answer.plan.predicted.host_bytes_per_node > 0


def test_a_pinned_empty_stage_gives_no_invalid_plan() -> None:
    answer = ask(num_devices=2, pins={"pipeline_parallel": "2", "layers_per_stage": "0,4"})
    assert answer.plan is None or violations(answer.plan.problem, answer.plan.layout) == []


def test_pinned_layers_are_used() -> None:
    answer = ask(num_devices=2, pins={"layers_per_stage": "3,1"})
    assert answer.plan is not None
    assert answer.plan.layout.layers_per_stage == (3, 1)


def test_forbidden_values_are_avoided() -> None:
    free = ask()
    assert free.plan is not None
    degree = str(free.plan.layout.tensor_parallel)
    other = ask(forbids={"tensor_parallel": (degree,)})
    assert other.plan is not None
    assert str(other.plan.layout.tensor_parallel) != degree
    assert (other.objective or 0) >= (free.objective or 0)


def test_runners_up_follow_in_order() -> None:
    answer = solve(problem(hardware=slow_hardware()), top=4)
    assert len(answer.runners_up) == 3
    steps = [answer.objective or 0, *(other.predicted.step_s for other in answer.runners_up)]
    assert steps == pytest.approx(sorted(steps))


def test_more_runners_up_than_layouts() -> None:
    answer = solve(problem(hardware=slow_hardware()), top=10_000)
    assert len(answer.runners_up) < answer.space.fit - 1
    assert sum(other.variants for other in answer.runners_up) + (answer.variants or 0) == answer.space.fit


@pytest.mark.parametrize("objective", ["step-time", "memory"])
def test_built_in_specs_are_solved_to_the_predicted_objective(objective: Any) -> None:
    asked = build_problem(Question(model="gpt2-xl", gpus=16, global_batch=64, objective=objective))
    answer = solve(asked)
    assert answer.plan is not None
    predicted = predict(asked, answer.plan.layout)
    value = predicted.step_s if objective == "step-time" else max(stage.peak_bytes for stage in predicted.stages)
    assert answer.objective == pytest.approx(value, rel=1e-6)
    assert answer.status == "optimal"


@pytest.mark.parametrize("latency_s", [0.0, 0.03, 0.1, 0.3])
def test_a_reduction_that_backward_hides_in_part_is_solved(latency_s: float) -> None:
    """Where a layer hides more of the reduction than it adds, the tail falls with the layers of a lone stage."""
    pins = {"data_parallel": "2", "pipeline_parallel": "1", "tensor_parallel": "1"}
    light_optimizer = {"traffic": {"optimizer_bytes": 1.0}}
    link = slow_hardware()["node_link"] | {"latency_s": latency_s}
    answer = ask(hardware={"node_link": link}, stack=light_optimizer, num_devices=2, pins=pins)
    assert answer.plan is not None
    assert answer.objective == pytest.approx(answer.plan.predicted.step_s)


@pytest.mark.parametrize(("name", "devices"), [("gpt3-13b", 64), ("gpt3-6.7b", 32), ("gpt3-1.3b", 16)])
@pytest.mark.parametrize("stack", ["colossalai", "megatron"])
def test_built_in_stacks_are_solved(name: str, devices: int, stack: str) -> None:
    question = Question(model=name, gpus=devices, gpu="a100-80g", stack=stack, global_batch=1536)
    answer = solve(build_problem(question))
    assert answer.plan is not None
    assert answer.objective == pytest.approx(answer.plan.predicted.step_s, rel=1e-6)


@pytest.mark.parametrize("stack", builtin_names(StackSpec))
def test_every_built_in_stack_has_an_answer(stack: str) -> None:
    """One without pipelines or tensor parallelism too, on counts that leave room for both."""
    trains_gpt2 = "gpt2" in load_spec(stack, StackSpec).families
    models = ("gpt3-1.3b", "gpt3") if trains_gpt2 else ("llama3.2-1b", "llama3-405b")
    asked = [Question(model=name, gpus=12, global_batch=1536, stack=stack) for name in models]
    answers = [solve(build_problem(question)) for question in asked]
    assert [answer.status for answer in answers] == ["optimal", "infeasible"]
    assert reasons_of(answers[1])[0].rule == "INF001"


@pytest.mark.parametrize(
    "pins",
    [
        {"pipeline_parallel": "2", "micro_batch": "2"},
        {"tensor_mode": "2.5d", "tensor_depth": "3"},
        {"zero_stage": "1", "offload.optimizer": "0.5", "offload.tier": "cpu"},
        {"schedule": "interleaved", "recompute_layers_per_stage": "all", "data_parallel": "3"},
        {"layers_per_stage": "1,2,1", "sequence_parallel": "false"},
        {"layers_per_stage": "1,2,2"},
        {"layers_per_stage": "even", "num_model_chunks": "2"},
    ],
    ids=str,
)
def test_candidates_that_keep_the_pins_are_all_that_a_pin_leaves(pins: dict[str, str]) -> None:
    asked = problem(pins=pins, num_devices=6, global_batch=12, stack={"tensor_modes": ("none", "1d", "2d", "2.5d")})
    every, kept = enumerate_layouts(asked), enumerate_layouts(asked, keeping_pins=True)
    keeps = screen(asked, every)[0]
    if "layers_per_stage" in pins and pins["layers_per_stage"] != "even":
        keeps &= (every.pipeline_parallel == 3) & (pins["layers_per_stage"] == "1,2,1")
    left, right = every.take(keeps), kept.take(screen(asked, kept)[0])
    assert len(kept) < len(every)
    for field in fields(left):
        assert getattr(left, field.name).tolist() == getattr(right, field.name).tolist()


def test_a_large_batch_on_a_slow_machine_is_solved() -> None:
    question = Question(model="gpt2-small", gpus=8, gpu="local-cpu", global_batch=65536, pin=("pipeline_parallel=2",))
    assert solve(build_problem(question)).status in ("optimal", "infeasible")


def test_candidates_of_the_interleaved_schedule() -> None:
    columns = enumerate_layouts(problem(num_devices=2))
    chunks = columns.num_model_chunks[columns.schedule == SCHEDULES.index("interleaved")]
    # Two stages of the four layers have two layers each, which make two chunks and no other number.
    assert sorted(set(chunks.tolist())) == [2]


def test_a_batch_that_no_data_parallelism_divides_leaves_one_invalid_split() -> None:
    columns = enumerate_layouts(problem(num_devices=3, global_batch=8))
    split = columns.take(columns.data_parallel == 3)
    assert set(split.micro_batch.tolist()) == {1}
    assert set(split.num_microbatches.tolist()) == {2}
