"""The search against every layout tried one by one, where many run under the zero-bubble schedule."""

import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from planner.layouts.problem import Problem, Reserve
from planner.solver import solve
from planner.specs.units import Bytes
from tests.helpers import changed
from tests.property.brute_force import optimum
from tests.property.strategies import problems
from tests.property.test_solver_optimum import RELATIVE, tolerance, worth

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@st.composite
def in_pipelines(draw: st.DrawFn) -> Problem:
    """A problem of two or four devices, most of whose layouts are pipelines of chunks."""
    asked = draw(problems(num_devices=draw(st.sampled_from([2, 4]))))
    stack = {
        "schedules": draw(st.sampled_from([("none", "1f1b", "zbv"), ("none", "1f1b", "interleaved", "zbv")])),
        "zero_bubble_tied_families": ("gpt2",),
        "tensor_modes": ("none", "1d"),
    }
    pins = draw(st.sampled_from([{"schedule": "zbv"}, {"tensor_parallel": "1", "data_parallel": "1"}, {}]))
    return changed(asked, stack=stack, model={"num_layers": draw(st.sampled_from([4, 8]))}, pins=pins)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(in_pipelines())
def test_the_answer_is_the_optimum_where_stages_work_in_a_v(asked: Problem) -> None:
    best, answer = optimum(asked), solve(asked)
    assert worth(answer) == pytest.approx(float("inf") if best is None else best, rel=RELATIVE, abs=tolerance(asked))
    event(answer.plan.layout.schedule if answer.plan is not None else "none fits")


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(in_pipelines(), st.floats(0.3, 0.98), st.sampled_from(["per-layer", "per-layer", "all-or-nothing", "alike"]))
def test_the_answer_is_the_optimum_where_stages_of_a_v_have_to_recompute(
    asked: Problem, share: float, recompute: str
) -> None:
    """With a part of what the best layout takes that recomputes nothing, and long micro batches."""
    stack = {"recompute": recompute, "uneven_stages": recompute != "alike", "schedules": ("none", "1f1b", "zbv")}
    asked = changed(
        asked,
        model={"max_seq_len": 64},
        seq_len=64,
        stack=stack,
        objective="step-time",
        reserve=Reserve(num_bytes=Bytes(0)),
    )
    roomy = changed(asked, hardware={"memory_bytes": Bytes(10**9)}, pins={**asked.pins, "schedule": "zbv"})
    most = solve(changed(roomy, pins={**roomy.pins, "recompute_layers_per_stage": "none"}))
    assume(most.plan is not None)
    assert most.plan is not None
    peak = max(stage.peak_bytes for stage in most.plan.predicted.stages)
    tight = changed(asked, hardware={"memory_bytes": Bytes(int(share * peak))})
    best, answer = optimum(tight), solve(tight)
    assert worth(answer) == pytest.approx(float("inf") if best is None else best, rel=RELATIVE)
    layout = answer.plan.layout if answer.plan is not None else None
    again = layout is not None and any(layout.recompute_layers_per_stage)
    event(f"{layout.schedule if layout else 'none fits'}, {'recomputing' if again else 'not recomputing'}")
