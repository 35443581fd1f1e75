"""The exact schedule against every task played, and how far the closed form of the search is from it."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from planner.cost_model import predict
from planner.cost_model.passes import PassTimes, pass_times
from planner.cost_model.pipeline import stage_times
from planner.cost_model.schedule_graph import stage_ends
from planner.cost_model.terms import total
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from tests.property.test_cost_properties import any_valid_layout, questions
from tests.unit.cost_model.schedules import makespan, order_1f1b, order_interleaved

TIMES = st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.1, 10.0))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data(), st.integers(2, 6), st.integers(1, 3), st.integers(1, 12), st.floats(0.0, 0.5))
def test_the_schedule_is_that_of_every_task_played(
    data: st.DataObject, num_stages: int, chunks: int, groups: int, send_s: float
) -> None:
    """Also where the rounds in the middle are not played, whatever the stages take."""
    microbatches = groups * num_stages if chunks > 1 else data.draw(st.integers(1, 60))
    forward_s, backward_s = (data.draw(st.lists(TIMES, min_size=num_stages, max_size=num_stages)) for _ in range(2))
    times = PassTimes(np.array(forward_s), np.array(backward_s), np.full(num_stages, send_s))
    last = num_stages * chunks - 1
    orders = [
        order_1f1b(stage, num_stages, microbatches)
        if chunks == 1
        else order_interleaved(stage, num_stages, chunks, microbatches)
        for stage in range(num_stages)
    ]
    virtual_forward = [forward_s[one % num_stages] / chunks + send_s * (one < last) for one in range(last + 1)]
    virtual_backward = [backward_s[one % num_stages] / chunks + send_s * (one > 0) for one in range(last + 1)]
    played = makespan(orders, virtual_forward, virtual_backward)
    assert max(stage_ends(times, microbatches, chunks)) == pytest.approx(played, rel=1e-8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(questions(), st.data())
def test_the_closed_form_is_within_its_bounds_of_the_schedule(asked: Problem, data: st.DataObject) -> None:
    """The closed form is too high by at most the bubble and what tails differ by, and the sends of one micro batch
    where it passes a stage several times.

    It is too low by at most ``M (max f + max b - max (f + b))``: nothing where the stage with the
    slowest forward has the slowest backward too, but for sends, which the first two hold and the last does not.
    """
    whole = any_valid_layout(asked, data)
    assume(whole.pipeline_parallel > 1)
    columns, predicted = stages_of_layout(whole), predict(asked, whole)
    exact = predicted.schedule_step_s
    assert exact is not None
    times = stage_times(asked, columns)
    tails, found = total(times.tail), pass_times(asked, columns, times)
    spread = float(tails.max() - tails.min())
    bubble = predicted.breakdown_s.get("pipeline_bubble", 0.0)
    # A chunk's first and last send need not be on the longest path, and the closed form has them for every stage.
    sends = 2 * whole.num_model_chunks * float(found.send_s.max()) * (whole.num_model_chunks > 1)
    assert predicted.step_s - exact <= (bubble + spread + sends) * (1 + 1e-9)
    forward = found.forward_s + found.send_s * whole.num_model_chunks
    backward = found.backward_s + found.send_s * whole.num_model_chunks
    apart = float(forward.max() + backward.max() - (found.forward_s + found.backward_s).max())
    assert exact - predicted.step_s <= whole.num_microbatches * apart + 1e-9 * exact
