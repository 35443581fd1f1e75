"""Ways out of questions with a known one, and device counts near the asked one."""

import msgspec

from planner.cost_model import predict
from planner.plans.question import Question, build_problem
from planner.rules import violations
from planner.solver import solve
from planner.solver.counts import nearest_counts
from planner.solver.feasibility import feasible, good_layout, valid_layouts
from tests.helpers import problem


def test_no_count_between_the_asked_and_the_named_one_has_a_layout() -> None:
    asked = build_problem(Question(model="gpt3", gpus=16))
    below, above, tried_to = nearest_counts(asked)
    assert (below, tried_to) == (None, above)
    assert above is not None
    for count in range(above - 6, above):
        assert not feasible(build_problem(Question(model="gpt3", gpus=count)))
    # The same layouts in a fraction of the memory are of no use on any number of devices.
    assert nearest_counts(problem(hardware={"memory_bytes": 2000})).above is None


def test_counts_that_pinned_degrees_do_not_divide_are_passed_over() -> None:
    """With DP 96 the next count is far, and all multiples of 96 before it are tried."""
    _, above, tried_to = nearest_counts(build_problem(Question(model="gpt3", gpus=96, pin=("data_parallel=96",))))
    assert above is not None
    assert (above % 96, tried_to) == (0, above)
    assert above > 96 + 128


def test_a_way_is_a_changed_problem_with_a_layout() -> None:
    asked = problem(num_devices=3, pins={"tensor_parallel": "3"})
    refusal = solve(asked).refusal
    assert refusal is not None
    way = next(way for way in refusal.ways if way.changed == "pins")
    assert (way.field, way.before, way.after) == ("tensor_parallel", "3", str(way.layout.tensor_parallel))
    assert way.problem == msgspec.structs.replace(asked, pins={"tensor_parallel": way.after})
    assert not violations(way.problem, way.layout)
    assert way.predicted == predict(way.problem, way.layout)


def test_a_good_layout_is_there_where_a_problem_is_feasible() -> None:
    assert good_layout(problem()) is not None
    assert good_layout(problem(hardware={"memory_bytes": 10})) is None
    assert len(valid_layouts(problem(hardware={"memory_bytes": 10})))
