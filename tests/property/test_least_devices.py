"""The least number of devices against a solve for each number."""

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planner.cost_model.memory import stage_memory
from planner.layouts.problem import Problem
from planner.layouts.stages import stages_of_layout
from planner.solver import solve, solve_least_devices
from planner.solver.answer import LeastDevices
from planner.solver.counts import state_floor_bytes
from planner.solver.min_devices import least_devices
from planner.specs.units import Bytes
from tests.property.brute_force import layouts, optimum
from tests.property.strategies import problems

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
TIGHT = st.integers(20_000, 200_000)
PINS = st.sampled_from(
    [
        {},
        {},
        {"tensor_parallel": "2"},
        {"pipeline_parallel": "2"},
        {"layers_per_stage": "even"},
        {"zero_stage": "1"},
        {"tensor_parallel": "2", "pipeline_parallel": "2"},
        {"recompute_layers_per_stage": "1,0"},
        {"data_parallel": "1"},
    ]
)


@st.composite
def tight_problems(draw: st.DrawFn) -> Problem:
    """Up to 6 devices with so little memory that one is often not enough."""
    drawn = draw(problems(num_devices=draw(st.integers(1, 6)), pins=draw(PINS)))
    hardware = msgspec.structs.replace(drawn.hardware, memory_bytes=Bytes(draw(TIGHT)))
    return msgspec.structs.replace(drawn, hardware=hardware)


def on(problem: Problem, num_devices: int) -> Problem:
    return msgspec.structs.replace(problem, num_devices=num_devices)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(tight_problems())
def test_the_least_is_that_of_all_layouts_on_every_count(problem: Problem) -> None:
    counts = range(1, problem.num_devices + 1)
    valid = {count: any(True for _ in layouts(on(problem, count))) for count in counts}
    least = next((count for count in counts if optimum(on(problem, count)) is not None), None)
    proof = least_devices(problem)
    assert proof.num_devices == least
    smaller = range(1, least or problem.num_devices + 1)
    above = [count for count in smaller if count > proof.excluded_by_bound]
    assert sorted((*proof.no_valid_layout, *proof.none_fits)) == above
    assert all(valid[count] for count in proof.none_fits)
    nearest = max((count for count in smaller if valid[count]), default=None)
    assert (proof.nearest_miss.num_devices if proof.nearest_miss else None) == nearest


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(tight_problems())
def test_the_answer_is_the_plan_of_that_count(problem: Problem) -> None:
    answer, proof = solve_least_devices(problem)
    expected = solve(on(problem, proof.num_devices or problem.num_devices))
    assert (answer.plan, answer.status, answer.space) == (expected.plan, expected.status, expected.space)
    check_miss(problem, proof)


def check_miss(problem: Problem, proof: LeastDevices) -> None:
    """A nearest miss fits with the memory that it misses, and not with less."""
    if proof.nearest_miss is None:
        return
    assert {reason.rule for reason in proof.nearest_miss.reasons} & {"MEM001", "MEM002"}
    short = proof.nearest_miss.short_bytes
    if short is not None and problem.reserve is not None:
        asked = on(problem, proof.nearest_miss.num_devices)
        assert solve(with_more(asked, short)).plan is not None
        assert solve(with_more(asked, short - 1)).plan is None


def with_more(problem: Problem, extra: int) -> Problem:
    memory = Bytes(problem.hardware.memory_bytes + extra)
    return msgspec.structs.replace(problem, hardware=msgspec.structs.replace(problem.hardware, memory_bytes=memory))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems(allow_offload="cpu"), st.sampled_from([("none",), ("none", "cpu")]))
def test_no_layout_has_less_than_the_bound(problem: Problem, tiers: tuple[str, ...]) -> None:
    stack = msgspec.structs.replace(problem.stack, offload_tiers=tiers)
    problem = msgspec.structs.replace(problem, stack=stack)
    floor = state_floor_bytes(problem)
    for layout in layouts(problem):
        stages = stages_of_layout(layout)
        ranks = layout.tensor_parallel * layout.data_parallel
        held = float(stage_memory(problem, stages).peak_bytes().sum()) * ranks
        assert held >= floor * (1 - 1e-9)
