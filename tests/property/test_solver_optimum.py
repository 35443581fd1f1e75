"""The solver against every layout tried one by one, and what must not change its answer."""

import msgspec
import pytest
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from planner.layouts.problem import Problem
from planner.plans.plan import Plan, canonical_json
from planner.rules import screen, violations
from planner.solver import Answer, solve
from planner.solver.candidates import enumerate_layouts
from planner.specs.stack import CompiledSpec
from planner.specs.units import Bytes, Seconds
from planner.views.why_not import reasons_of
from tests.property.brute_force import fits, layouts, objective_of, optimum
from tests.property.strategies import problems

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
RELATIVE = 1e-6
"""A whole nanosecond against steps of milliseconds; a byte against peaks of 40 kB is less exact."""


COMPILED = CompiledSpec(
    families=("gpt2",), start_s=Seconds(1.0), one_pass=("bf16",), one_pass_bytes=26.0, recomputes_pointwise=True
)


def tolerance(problem: Problem) -> float:
    """Bytes are rounded for each term, so a peak may differ by one for each of them."""
    return 20.0 if problem.objective == "memory" else 0.0


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_the_answer_is_the_optimum_of_all_layouts(problem: Problem) -> None:
    best, answer = optimum(problem), solve(problem)
    if best is None:
        assert answer.status == "infeasible"
        assert answer.plan is None
        assert reasons_of(answer)
        return
    assert answer.status == "optimal"
    assert answer.objective == pytest.approx(best, rel=RELATIVE, abs=tolerance(problem))


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_stages_that_recompute_alike_have_the_optimum_of_all_that_do(problem: Problem) -> None:
    stack = msgspec.structs.replace(problem.stack, recompute="alike", uneven_stages=False)
    asked = msgspec.structs.replace(problem, stack=stack)
    best = optimum(asked)
    expected = pytest.approx(float("inf") if best is None else best, rel=RELATIVE, abs=tolerance(problem))
    assert worth(solve(asked)) == expected


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_compiled_blocks_that_may_make_results_again_have_their_optimum(problem: Problem) -> None:
    stack = msgspec.structs.replace(problem.stack, compiled=COMPILED)
    asked = msgspec.structs.replace(problem, stack=stack, compiled=True)
    best = optimum(asked)
    expected = pytest.approx(float("inf") if best is None else best, rel=RELATIVE, abs=tolerance(problem))
    assert worth(solve(asked)) == expected
    without = msgspec.structs.replace(asked, pins={"recompute_pointwise": "false"})
    assert worth(solve(asked)) <= worth(solve(without)) * (1 + RELATIVE)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_a_plan_is_valid_fits_and_is_worth_its_objective(problem: Problem) -> None:
    answer = solve(problem, top=3)
    assume(answer.plan is not None)
    assert answer.plan is not None
    plan = answer.plan
    assert violations(problem, plan.layout) == []
    assert fits(problem, plan.predicted)
    predicted = objective_of(problem, plan.predicted)
    assert answer.objective == pytest.approx(predicted, rel=RELATIVE, abs=tolerance(problem))
    for other in answer.runners_up:
        assert violations(problem, other.layout) == []
        assert fits(problem, other.predicted)
    check_evidence(answer)


def check_evidence(answer: Answer) -> None:
    """Bound, gap and counts of an answer agree with each other."""
    assert answer.plan is not None
    assert answer.objective is not None
    assert answer.bound is not None
    assert answer.gap is not None
    evidence, space = answer.plan.evidence, answer.space
    assert answer.bound <= answer.objective
    assert answer.gap == pytest.approx((answer.objective - answer.bound) / answer.objective)
    assert (evidence.objective, evidence.bound, evidence.gap) == (answer.objective, answer.bound, answer.gap)
    assert answer.status != "optimal" or answer.gap <= RELATIVE
    assert 0 < space.fit <= space.valid <= space.layouts
    if evidence.lowest_bounded_out is not None:
        assert evidence.lowest_bounded_out >= answer.objective * (1 - RELATIVE)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_the_same_problem_gives_the_same_bytes(problem: Problem) -> None:
    first, second = solve(problem), solve(problem)
    assert canonical_json(first.plan) == canonical_json(second.plan)
    assert first.space == second.space
    assert reasons_of(first) == reasons_of(second)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems(), st.integers(0, 200_000))
def test_more_memory_is_never_worse(problem: Problem, extra: int) -> None:
    more = Bytes(problem.hardware.memory_bytes + extra)
    roomier = msgspec.structs.replace(problem, hardware=msgspec.structs.replace(problem.hardware, memory_bytes=more))
    assert worth(solve(roomier)) <= worth(solve(problem)) * (1 + RELATIVE)


def optimal_plan(problem: Problem) -> Plan | None:
    """What the search finds, which has to be as good as the best of all layouts, and to keep every rule."""
    best, answer = optimum(problem), solve(problem)
    found = float("inf") if best is None else best
    assert worth(answer) == pytest.approx(found, rel=RELATIVE, abs=tolerance(problem))
    if answer.plan is None:
        event("none fits")
        return None
    assert violations(problem, answer.plan.layout) == []
    return answer.plan


def worth(answer: Answer) -> float:
    """The objective, infinite where there is no layout."""
    return float("inf") if answer.objective is None else answer.objective


PINS = st.sampled_from(
    [
        ("tensor_parallel", "2"),
        ("pipeline_parallel", "2"),
        ("data_parallel", "1"),
        ("micro_batch", "2"),
        ("zero_stage", "1"),
        ("recompute_layers_per_stage", "all"),
        ("recompute_layers_per_stage", "some"),
        ("layers_per_stage", "even"),
        ("layers_per_stage", "1,2"),
        ("schedule", "1f1b"),
        ("tensor_mode", "none"),
    ]
)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems(), PINS)
def test_a_pin_is_never_better(problem: Problem, pin: tuple[str, str]) -> None:
    pinned = msgspec.structs.replace(problem, pins=dict([pin]))
    assert worth(solve(pinned)) >= worth(solve(problem)) * (1 - RELATIVE)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems(num_devices=4), PINS)
def test_a_pinned_answer_is_the_optimum_of_the_layouts_that_have_the_value(
    problem: Problem, pin: tuple[str, str]
) -> None:
    pinned = msgspec.structs.replace(problem, pins=dict([pin]))
    best = optimum(pinned)
    expected = pytest.approx(float("inf") if best is None else best, rel=RELATIVE, abs=tolerance(problem))
    assert worth(solve(pinned)) == expected


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems(), st.sampled_from([1e-9, 1e-3]))
def test_a_short_time_limit_gives_an_honest_answer(problem: Problem, limit_s: float) -> None:
    limited, unlimited = solve(problem, time_limit_s=limit_s), solve(problem)
    assert (limited.plan is None) == (unlimited.plan is None)
    if limited.plan is None:
        assert limited.status == "infeasible"
        return
    assert limited.status in ("optimal", "feasible")
    check_evidence(limited)
    assert violations(problem, limited.plan.layout) == []
    assert worth(limited) >= worth(unlimited) * (1 - RELATIVE)
    assert limited.bound is not None
    assert limited.bound <= worth(unlimited) * (1 + RELATIVE)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
@given(problems())
def test_the_space_is_counted(problem: Problem) -> None:
    columns = enumerate_layouts(problem)
    valid, _ = screen(problem, columns)
    space = solve(problem).space
    assert (space.layouts, space.valid) == (len(columns), int(valid.sum()))
    assert any(True for _ in layouts(problem)) == (space.valid > 0)
