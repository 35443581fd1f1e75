"""The search over layouts under the zero-bubble schedule."""

from pathlib import Path

import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.zero_bubble import v_seconds
from planner.layouts.layout import SCHEDULES
from planner.layouts.problem import Problem, Reserve
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import read_plan, write_plan
from planner.plans.question import Question, build_problem
from planner.solver import Answer, solve
from planner.solver.candidates import enumerate_layouts
from planner.specs.units import Bytes
from planner.views.why_not import reasons_of
from tests.helpers import changed, problem
from tests.unit.rules.rule_cases import IN_V

IN_A_PIPELINE = {"pipeline_parallel": "2", "tensor_parallel": "1"}
ZBV = SCHEDULES.index("zbv")


def ask(**pins: str) -> Answer:
    return solve(asked(**pins))


def asked(**pins: str) -> Problem:
    return problem(num_devices=2, global_batch=4, stack=IN_V, pins=IN_A_PIPELINE | pins)


def test_candidates_under_a_v_have_two_chunks_and_no_grid() -> None:
    columns = enumerate_layouts(problem(stack=IN_V | {"tensor_modes": ("none", "1d", "2d")}, model={"num_layers": 6}))
    in_v = columns.schedule == ZBV
    assert set(columns.num_model_chunks[in_v].tolist()) == {2}
    assert set(columns.pipeline_parallel[in_v].tolist()) == {2, 4}


def test_candidates_under_a_v_are_for_families_that_run_under_it() -> None:
    others = problem(stack=IN_V | {"zero_bubble_families": ("llama",)})
    assert not (enumerate_layouts(others).schedule == ZBV).any()
    pinned = problem(stack=IN_V | {"zero_bubble_families": ("llama",)}, pins={"schedule": "zbv"})
    assert (enumerate_layouts(pinned).schedule == ZBV).any()


def test_a_v_is_chosen_where_it_is_faster() -> None:
    free, in_turn = ask(), ask(schedule="1f1b")
    assert free.plan is not None
    assert in_turn.plan is not None
    assert free.plan.layout.schedule == "zbv"
    assert free.status == "optimal"
    assert free.plan.predicted.step_s < 0.9 * in_turn.plan.predicted.step_s
    assert free.objective == pytest.approx(free.plan.predicted.step_s, rel=1e-6)


def test_a_step_in_a_v_is_the_schedule_as_it_is_played_and_the_longest_tail() -> None:
    plan = ask(schedule="zbv").plan
    assert plan is not None
    played = float(v_seconds(plan.problem, stages_of_layout(plan.layout))[0])
    tail = plan.predicted.breakdown_s["optimizer"]
    assert plan.predicted.step_s == pytest.approx(played + tail)
    assert plan.predicted == predict(plan.problem, plan.layout)


def test_a_plan_in_a_v_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = ask(schedule="zbv").plan
    assert plan is not None
    write_plan(plan, tmp_path / "v.plan")
    assert read_plan(tmp_path / "v.plan") == plan


@pytest.mark.parametrize(
    ("pins", "rule"),
    [
        ({"layers_per_stage": "1,3"}, "PP011"),
        ({"num_model_chunks": "1"}, "PP003"),
        ({"num_microbatches": "1"}, "PP004"),
    ],
)
def test_what_a_v_cannot_have_is_named(pins: dict[str, str], rule: str) -> None:
    answer = ask(schedule="zbv", **pins)
    assert answer.status == "infeasible"
    assert rule in {reason.rule for reason in reasons_of(answer)}


@pytest.mark.parametrize(("word", "layers"), [("all", (2, 2)), ("some", (1, 1)), ("none", (0, 0))])
def test_a_v_recomputes_what_is_pinned(word: str, layers: tuple[int, ...]) -> None:
    in_layers = changed(asked(schedule="zbv", recompute_layers_per_stage=word), stack={"recompute": "per-layer"})
    answer = solve(in_layers)
    assert answer.status == "optimal"
    assert answer.plan is not None
    assert answer.plan.layout.recompute_layers_per_stage == layers
    assert answer.plan.predicted == predict(answer.plan.problem, answer.plan.layout)


def tight(memory_bytes: int, **pins: str) -> Answer:
    memory = {"memory_bytes": Bytes(memory_bytes)}
    deep = {"num_layers": 16, "hidden_size": 64, "ffn_hidden_size": 256}
    room = {"stack": {"recompute": "per-layer"}, "reserve": Reserve(num_bytes=Bytes(0))}
    pins = {"micro_batch": "32", "zero_stage": "0"} | pins
    return solve(changed(asked(**pins), global_batch=256, hardware=memory, model=deep, **room))


def test_a_v_recomputes_as_little_as_fits_and_is_still_the_fastest() -> None:
    roomy = tight(10**9, schedule="zbv")
    assert roomy.plan is not None
    peak = max(stage.peak_bytes for stage in roomy.plan.predicted.stages)
    less, in_turn = tight(int(0.8 * peak)), tight(int(0.8 * peak), schedule="1f1b")
    assert less.status == "optimal"
    assert less.plan is not None
    assert less.plan.layout.schedule == "zbv"
    assert all(0 < own < 8 for own in less.plan.layout.recompute_layers_per_stage)
    assert in_turn.plan is not None
    assert less.plan.predicted.step_s < in_turn.plan.predicted.step_s
    assert less.objective == pytest.approx(less.plan.predicted.step_s, rel=1e-6)


def test_layers_of_a_v_are_two_equal_chunks_of_each_stage() -> None:
    odd = problem(num_devices=2, model={"num_layers": 6}, stack=IN_V, pins=IN_A_PIPELINE | {"schedule": "zbv"})
    answer = solve(odd)
    assert answer.status == "infeasible"
    assert "PP006" in {reason.rule for reason in reasons_of(answer)}


def test_a_family_that_a_v_does_not_run_is_named() -> None:
    others = problem(stack=IN_V | {"zero_bubble_families": ("llama",)}, pins={"schedule": "zbv"})
    answer = solve(others)
    assert answer.status == "infeasible"
    assert "PP013" in {reason.rule for reason in reasons_of(answer)}


@pytest.mark.parametrize("gpus", [8, 64])
def test_a_question_of_a_llama_is_proven_with_a_v_among_the_candidates(gpus: int) -> None:
    asked = build_problem(Question(model="llama2-13b", gpus=gpus, gpu="h100-80g", global_batch=64, no_compile=True))
    columns = enumerate_layouts(asked)
    assert np.count_nonzero(columns.schedule == ZBV) > 100
    answer = solve(asked)
    assert answer.status == "optimal"
    assert answer.solve_s < 10
