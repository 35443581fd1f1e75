"""The search against every layout tried one by one, where all stages recompute alike and ends may lack a layer."""

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from planner.layouts.problem import Problem
from planner.solver import solve
from planner.specs.units import Bytes
from tests.helpers import changed
from tests.property.strategies import problems
from tests.property.test_solver_optimum import optimal_plan

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


@st.composite
def in_chunks(draw: st.DrawFn) -> Problem:
    """A problem of two devices with about the memory that its best layout takes which may have all that there is."""
    pins = draw(st.sampled_from([{"schedule": "interleaved"}, {"schedule": "interleaved"}, {}]))
    pins |= draw(st.sampled_from([{}, {"recompute_layers_per_stage": "some"}]))
    stack = {"recompute": "alike", "uneven_stages": False, "ends_as_layers": True}
    asked = changed(
        draw(problems(num_devices=2, pins=pins)),
        model={"num_layers": draw(st.sampled_from([3, 5, 7, 6, 8])), "max_seq_len": 64},
        seq_len=64,
        stack={**stack, "schedules": ("none", "1f1b", "interleaved")},
        hardware={"memory_bytes": Bytes(10**8)},
    )
    roomy = solve(asked).plan
    assume(roomy is not None)
    assert roomy is not None
    peak = max(stage.peak_bytes for stage in roomy.predicted.stages)
    memory = Bytes(int(draw(st.floats(0.6, 1.2)) * peak) + 1100)
    return changed(asked, hardware={"memory_bytes": memory})


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(in_chunks())
def test_the_answer_is_the_optimum_where_chunks_recompute_alike(asked: Problem) -> None:
    plan = optimal_plan(asked)
    if plan is None:
        return
    layout = plan.layout
    event(
        f"{layout.layers_per_stage}, {layout.num_model_chunks} chunks, {layout.recompute_layers_per_stage} recomputed"
    )
