"""Closed forms of the pipeline against the schedule played task by task."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost_model.activations import in_flight_microbatches
from planner.cost_model.pipeline import pipeline_bubble
from tests.helpers import stages
from tests.unit.cost_model.schedules import dependencies, makespan, most_held, order_1f1b, order_interleaved

NUM_STAGES = st.integers(2, 6)
TIMES = st.floats(0.1, 10.0)


def closed_form(microbatches: int, times: list[float], chunks: int = 1) -> float:
    """The cost model's span of one step over stages that take ``times`` for a micro batch."""
    bubble = pipeline_bubble(np.array([sum(times)]), np.array([max(times)]), np.array([chunks]))
    return microbatches * max(times) + float(bubble[0])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NUM_STAGES, st.integers(1, 12))
def test_1f1b_holds_as_many_microbatches_as_the_formula_says(num_stages: int, microbatches: int) -> None:
    columns = stages(pipeline_parallel=num_stages, num_microbatches=microbatches, layers_per_stage=(1,) * num_stages)
    played = [most_held(order_1f1b(stage, num_stages, microbatches)) for stage in range(num_stages)]
    assert in_flight_microbatches(columns).tolist() == played


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NUM_STAGES, st.integers(2, 4), st.integers(1, 4))
def test_interleaving_holds_as_many_chunks_as_the_formula_says(num_stages: int, chunks: int, groups: int) -> None:
    microbatches = groups * num_stages
    columns = stages(
        pipeline_parallel=num_stages,
        num_microbatches=microbatches,
        num_model_chunks=chunks,
        schedule="interleaved",
        layers_per_stage=(chunks,) * num_stages,
    )
    orders = [order_interleaved(stage, num_stages, chunks, microbatches) for stage in range(num_stages)]
    assert nx.is_directed_acyclic_graph(dependencies(orders))
    played = [most_held(order) / chunks for order in orders]
    assert in_flight_microbatches(columns).tolist() == pytest.approx(played)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(NUM_STAGES, st.integers(0, 10), TIMES, TIMES)
def test_1f1b_with_equal_stages_takes_the_closed_form(
    num_stages: int, more: int, forward_s: float, backward_s: float
) -> None:
    microbatches = num_stages + more
    orders = [order_1f1b(stage, num_stages, microbatches) for stage in range(num_stages)]
    played = makespan(orders, [forward_s] * num_stages, [backward_s] * num_stages)
    assert played == pytest.approx(closed_form(microbatches, [forward_s + backward_s] * num_stages))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data(), NUM_STAGES, st.integers(0, 10))
def test_uneven_1f1b_whose_backward_is_a_multiple_of_its_forward_takes_at_most_the_closed_form(
    data: st.DataObject, num_stages: int, more: int
) -> None:
    """What the cost model describes: backward is twice forward, or three times where layers recompute."""
    forward_s = data.draw(st.lists(TIMES, min_size=num_stages, max_size=num_stages))
    ratio = data.draw(st.floats(2, 3))
    backward_s = [ratio * seconds for seconds in forward_s]
    played, closed = play(num_stages, num_stages + more, forward_s, backward_s)
    assert played <= closed * (1 + 1e-9)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data(), NUM_STAGES, st.integers(0, 10))
def test_uneven_1f1b_is_within_a_factor_of_the_closed_form(data: st.DataObject, num_stages: int, more: int) -> None:
    """The closed form is at most ``1 + (p - 1) / M`` of the schedule, whatever the stages take.

    Where stages differ in the share that is forward it can also be too low, by less than a factor of
    two: ``sum t_s + (M - 1) (max f_s + max b_s)`` always suffices.
    """
    microbatches = num_stages + more
    forward_s = data.draw(st.lists(TIMES, min_size=num_stages, max_size=num_stages))
    backward_s = data.draw(st.lists(TIMES, min_size=num_stages, max_size=num_stages))
    played, closed = play(num_stages, microbatches, forward_s, backward_s)
    assert closed <= played * (1 + (num_stages - 1) / microbatches) * (1 + 1e-9)
    enough = sum(forward_s) + sum(backward_s) + (microbatches - 1) * (max(forward_s) + max(backward_s))
    assert played <= enough * (1 + 1e-9)


def test_the_closed_form_is_too_low_where_the_slowest_forward_and_backward_are_on_different_stages() -> None:
    assert play(3, 3, [1.0, 4.0, 1.0], [4.0, 1.0, 1.0]) == (23.0, 22.0)


def play(num_stages: int, microbatches: int, forward_s: list[float], backward_s: list[float]) -> tuple[float, float]:
    """The time of the played schedule and of the closed form."""
    orders = [order_1f1b(stage, num_stages, microbatches) for stage in range(num_stages)]
    times = [f + b for f, b in zip(forward_s, backward_s, strict=True)]
    return makespan(orders, forward_s, backward_s), closed_form(microbatches, times)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(NUM_STAGES, st.integers(2, 4), st.integers(2, 4), TIMES, TIMES)
def test_interleaving_with_equal_stages_takes_the_closed_form(
    num_stages: int, chunks: int, groups: int, forward_s: float, backward_s: float
) -> None:
    microbatches = groups * num_stages
    orders = [order_interleaved(stage, num_stages, chunks, microbatches) for stage in range(num_stages)]
    virtual = num_stages * chunks
    played = makespan(orders, [forward_s / chunks] * virtual, [backward_s / chunks] * virtual)
    whole = [forward_s + backward_s] * num_stages
    assert played == pytest.approx(closed_form(microbatches, whole, chunks))
