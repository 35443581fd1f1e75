"""The exact time of a schedule: how a micro batch divides, small pipelines by hand, and how fast it is found."""

import time

import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.communication import tied_embedding_seconds
from planner.cost_model.passes import PassTimes, pass_times
from planner.cost_model.pipeline import stage_times
from planner.cost_model.schedule_graph import schedule_step_seconds, stage_ends
from planner.cost_model.terms import total
from planner.plans.question import Question, build_problem
from planner.solver import solve
from tests.helpers import layout, problem, problem_of, stages
from tests.unit.cost_model.test_pipeline import SEND_S


def passes(forward_s: list[float], backward_s: list[float], send_s: float = 0.0) -> PassTimes:
    return PassTimes(np.array(forward_s), np.array(backward_s), np.full(len(forward_s), send_s))


def test_schedule_step_seconds_is_the_closed_form_where_stages_are_equal() -> None:
    one = layout(data_parallel=4, num_microbatches=2)
    predicted = predict(problem_of(one), one)
    assert predicted.schedule_step_s == pytest.approx(predicted.step_s)


def test_schedule_step_seconds_lets_other_stages_start_their_tail_early() -> None:
    asked, columns = problem(num_devices=2), stages(pipeline_parallel=2, layers_per_stage=(1, 3), num_microbatches=1)
    times = stage_times(asked, columns)
    found = pass_times(asked, columns, times)
    backward_done = float((found.forward_s + found.backward_s).sum() + 2 * SEND_S)
    tied = float(tied_embedding_seconds(asked, columns)[0])
    # The last stage ends before the first, and the tied gradient needs both: the longer tail then follows.
    assert schedule_step_seconds(asked, columns) == pytest.approx(backward_done + tied + total(times.tail).max())


def test_schedule_step_seconds_needs_one_layout_and_whole_groups() -> None:
    asked = problem(num_devices=2)
    columns = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2, num_microbatches=3)
    assert schedule_step_seconds(asked, columns) is None
    with pytest.raises(ValueError, match="3 micro batches do not divide by 2 stages"):
        stage_ends(passes([1.0, 1.0], [2.0, 2.0]), 3, 2)


def test_stage_ends_by_hand() -> None:
    # Forward 1 and backward 2 s on three stages: each starts its last backward 2 s after the next stage.
    assert stage_ends(passes([1.0] * 3, [2.0] * 3), 1) == [9.0, 7.0, 5.0]
    assert stage_ends(passes([1.0] * 3, [2.0] * 3), 5) == [21.0, 19.0, 17.0]
    # A send of half a second blocks its sender: 4 of them lie on the path of a single micro batch.
    assert stage_ends(passes([1.0] * 3, [2.0] * 3, 0.5), 1)[0] == 11.0
    assert stage_ends(passes([1.0], [2.0]), 7) == [21.0]


@pytest.mark.parametrize("chunks", [1, 4])
def test_stage_ends_of_a_long_schedule_take_milliseconds(chunks: int) -> None:
    times = passes([1.0 + 0.01 * stage for stage in range(12)], [2.0] * 11 + [2.5], 0.01)
    started = time.process_time()
    stage_ends(times, 1536, chunks)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("question", [Question(model="gpt3", gpus=96), Question(model="gpt3-13b", gpus=48)])
def test_a_plan_holds_a_schedule_within_two_percent_of_the_closed_form(question: Question) -> None:
    plan = solve(build_problem(question)).plan
    assert plan is not None
    predicted = plan.predicted
    assert predicted.step_s == pytest.approx(sum(predicted.breakdown_s.values()))
    assert predicted.schedule_step_s is not None
    assert 0.98 * predicted.step_s <= predicted.schedule_step_s <= (1 + 1e-9) * predicted.step_s


def test_the_closed_form_stays_the_objective() -> None:
    columns, asked = stages(pipeline_parallel=2, layers_per_stage=(1, 3)), problem(num_devices=2)
    one = layout(pipeline_parallel=2, layers_per_stage=(1, 3))
    assert predict(asked, one).step_s == pytest.approx(sum(step_breakdown(asked, columns).values()))
