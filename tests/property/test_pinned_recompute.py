"""Pinned lists of recomputed layers: the solver against every layout that has them, tried one by one."""

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from planner.layouts.problem import Problem
from planner.specs.units import Bytes
from tests.helpers import changed
from tests.property.strategies import problems
from tests.property.test_solver_optimum import optimal_plan

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
STACKS: list[dict[str, Any]] = [
    {"recompute": "per-layer"},
    {"recompute": "per-layer", "uneven_stages": False},
    {"recompute": "alike", "uneven_stages": False},
    {"recompute": "all-or-nothing"},
    {},
]


@st.composite
def listed_problems(draw: st.DrawFn) -> Problem:
    """A problem with a pinned list that its layers can have, most of the time; some with other pins too."""
    asked = draw(problems(num_devices=draw(st.sampled_from([2, 4, 4, 1]))))
    stages = draw(st.sampled_from([n for n in (2, 2, 4, 1) if asked.num_devices % n == 0]))
    chunked = draw(st.sampled_from(["", "", "zbv", "interleaved"])) if stages > 1 else ""
    asked = changed(asked, model={"num_layers": 2 * stages}) if chunked else asked
    left, counts = asked.model.num_layers, []
    for _ in range(stages):
        counts.append(draw(st.integers(0, left // 2 + 1)))
        left = max(0, left - counts[-1])
    counts = [max(1, count) for count in counts] if chunked == "zbv" and draw(st.booleans()) else counts
    alike = draw(st.sampled_from([False, False, False, True]))
    counts = [asked.model.num_layers // stages - draw(st.integers(0, 1))] * stages if alike else counts
    pins = {"recompute_layers_per_stage": ",".join(map(str, counts))}
    pins |= draw(st.sampled_from([{}, {}, {}, {"layers_per_stage": "even"}, {"tensor_parallel": "1"}]))
    pins |= {"schedule": chunked} if chunked else {}
    memory_bytes = Bytes(draw(st.sampled_from([10**7, 10**7, 150_000, int(asked.hardware.memory_bytes)])))
    schedules = ("none", "1f1b", "interleaved", "zbv") if chunked else asked.stack.schedules
    stack = {**draw(st.sampled_from(STACKS)), "schedules": schedules}
    return changed(asked, pins=pins, stack=stack, hardware={"memory_bytes": memory_bytes})


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(listed_problems())
def test_the_answer_is_the_optimum_of_the_layouts_that_recompute_what_is_listed(asked: Problem) -> None:
    plan = optimal_plan(asked)
    if plan is None:
        return
    layout = plan.layout
    assert ",".join(map(str, layout.recompute_layers_per_stage)) == asked.pins["recompute_layers_per_stage"]
    event(f"{layout.schedule}, {asked.stack.recompute}, {asked.objective}")
