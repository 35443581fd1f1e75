"""How far a question is from what was measured, and what that makes of it."""

import math

import pytest

from planner.cost_model.errors import KINDS
from planner.cost_model.intervals import (
    READINGS,
    Runs,
    all_runs,
    calibration,
    distance,
    distance_of,
    finest_reading,
    fits_probabilities,
    memory_bound,
    memory_bounds,
    memory_interval,
    most_confidence,
    step_interval,
)
from planner.diagnostics import PlanError
from tests.helpers import problem, stages

MEASURED = Runs(table="a", stack="s", hardware="h100-80g", kind="data", parameters=1000)


def asked(**fields: object) -> Runs:
    base = {"table": "", "stack": "s", "hardware": "h100-80g", "kind": "data", "parameters": 1000}
    return Runs(**(base | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "memory", "time"),
    [
        ({}, 0, 0),
        ({"parameters": 2000}, 0, 0),
        ({"parameters": 2001}, 1, 1),
        ({"kind": "pipeline"}, 1, 1),
        ({"hardware": "a100-40g"}, 0, 1),
        ({"other_parts": True}, 2, 2),
    ],
)
def test_distance_from_runs_of_the_same_stack(fields: dict[str, object], memory: int, time: int) -> None:
    one = asked(**fields)
    assert (distance(one, [MEASURED], "memory"), distance(one, [MEASURED], "step_time")) == (memory, time)


def test_a_stack_that_was_never_measured_is_farthest_with_a_model_of_other_parts() -> None:
    assert distance(asked(), [], "memory") == 2
    assert distance(asked(other_parts=True), [], "memory") == 3
    assert distance_of(problem(), "data", "memory") == 2


def test_every_run_is_of_a_known_kind_and_has_an_error() -> None:
    assert {one.kind for one in all_runs()} <= set(KINDS)
    assert all(one.step_time or one.allocated or one.reserved or one.device for one in all_runs())


def test_scales_do_not_fall_with_distance_or_nodes() -> None:
    for quantity in ("memory", "step_time"):
        scales = calibration(quantity).scales
        for (column, step), scale in scales.items():
            assert scale <= scales.get((column, step + 1), scale)
            assert scale <= scales.get((column + 1, step), scale)


def test_a_table_that_is_left_out_does_not_bear_on_its_own_interval() -> None:
    tables = {one.table for one in all_runs()}
    for table in tables:
        assert all(one.table != table for one in calibration("step_time", table).groups)


def test_fits_probabilities_of_the_room_of_a_bound_are_its_probability() -> None:
    one = problem()
    bound = memory_bound(one, "data", 0.95)
    exact, less = fits_probabilities(one, "data", [1 + bound, (1 + bound) * 0.99])
    assert exact >= 0.95 > less
    assert fits_probabilities(one, "data", [0.0]) == [0.0]


def test_memory_bound_rises_with_the_probability_and_is_not_below_0() -> None:
    bounds = [memory_bound(problem(), "data", share) for share in (0.0, 0.5, 0.9, 0.95)]
    assert bounds[0] == 0.0
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0]


def test_a_stack_fits_as_surely_as_its_finest_reading_tells() -> None:
    assert [READINGS[finest_reading(name)] for name in ("colossalai", "nanotron", "megatron-deepspeed-2021")] == [
        "allocated",
        "reserved",
        "device",
    ]
    assert finest_reading("nanotron", without="Ultrascale-playbook") == finest_reading("a stack of nobody") == 0
    fine, coarse = (memory_bound(problem(stack={"name": name}), "data", 0.9) for name in ("colossalai", "nanotron"))
    assert 0 < fine < coarse


def test_memory_interval_of_what_a_driver_shows_is_wider() -> None:
    low, high = memory_interval(problem(), "data", "allocated")
    held_low, held_high = memory_interval(problem(), "data", "reserved")
    wide_low, wide_high = memory_interval(problem(), "data", "device")
    assert wide_low <= held_low < low < 1 < high < held_high <= wide_high


def test_step_interval_is_wider_on_several_nodes() -> None:
    low, high = step_interval(problem(), "data")
    wide_low, wide_high = step_interval(problem(num_devices=8), "data")
    assert wide_low <= low < 1 < high <= wide_high < math.inf


def test_more_than_the_runs_can_show_is_refused_with_what_they_can() -> None:
    beyond = (1 + most_confidence()) / 2
    with pytest.raises(PlanError, match="is more than the measured runs can show") as raised:
        memory_bounds(problem(), stages(), beyond)
    assert raised.value.diagnostics[0].location == "--confidence"
