"""The exact model on its own: each constraint of a choice with the other variables fixed."""

from dataclasses import fields, replace

import numpy as np
import pytest

from planner.layouts.layout import Layout, LayoutColumns, columns_of
from planner.layouts.stages import stages_of
from planner.solver import solve
from planner.solver.choice import ChoiceModel
from planner.solver.limits import StageLimits, fits_device, most_layers, stage_limits
from planner.solver.tables import deal_evenly, time_tables
from planner.specs.units import Bytes
from tests.helpers import layout, problem, slow_hardware

NUM_LAYERS = 4


def table(*layouts: Layout) -> LayoutColumns:
    """Columns of several layouts."""
    rows = [columns_of(one) for one in layouts]
    names = [field.name for field in fields(LayoutColumns)]
    return LayoutColumns(**{name: np.concatenate([getattr(row, name) for row in rows]) for name in names})


def limits(fewest: list[int], most: list[int]) -> StageLimits:
    """Limits of a layout with one stage and one with two, in this order."""
    stages = stages_of(table(layout(), layout(pipeline_parallel=2)))
    return StageLimits(stages=stages, fewest=np.array(fewest), most=np.array(most))


def choice(fewest: list[int] | None = None, most: list[int] | None = None) -> ChoiceModel:
    return ChoiceModel(limits(fewest or [1, 1, 1], most or [4, 4, 4]), NUM_LAYERS)


def fix(model: ChoiceModel, chosen: int | None = None, layers: tuple[int, ...] = ()) -> str:
    """The status with a layout and layers fixed."""
    if chosen is not None:
        model.model.add(model.chosen[chosen] == 1)
    for variable, count in zip(model.layers, layers, strict=False):
        model.model.add(variable == count)
    return model.solve(None).status


@pytest.mark.parametrize(
    ("chosen", "layers", "possible"),
    [
        (0, (4, 0), True),
        (0, (2, 2), False),  # one stage leaves the second variable unused
        (0, (3, 0), False),  # a layer is missing
        (1, (2, 2), True),
        (1, (1, 3), True),
        (1, (4, 0), False),  # an empty stage
        (1, (2, 3), False),  # a layer too many
    ],
)
def test_layers_of_a_chosen_layout(chosen: int, layers: tuple[int, ...], possible: bool) -> None:
    assert (fix(choice(), chosen, layers) in ("optimal", "feasible")) is possible


@pytest.mark.parametrize(("layers", "possible"), [((2, 2), True), ((3, 1), False), ((1, 3), True)])
def test_a_stage_holds_no_more_than_its_most(layers: tuple[int, ...], possible: bool) -> None:
    model = choice(most=[4, 2, 3])
    assert (fix(model, 1, layers) in ("optimal", "feasible")) is possible


def test_a_stage_holds_no_fewer_than_its_fewest() -> None:
    assert fix(choice(fewest=[1, 2, 1]), 1, (1, 3)) == "infeasible"


def test_a_layout_that_cannot_hold_the_layers_is_not_chosen() -> None:
    answer = choice(most=[3, 4, 4]).solve(None)
    assert answer.layout_row == 1
    assert sum(answer.layers) == NUM_LAYERS


def test_no_layout_is_infeasible() -> None:
    answer = choice(most=[3, 1, 2]).solve(None)
    assert (answer.status, answer.layout_row, answer.layers) == ("infeasible", None, ())


def test_exactly_one_layout_is_chosen() -> None:
    both, none = choice(), choice()
    both.model.add(sum(both.chosen) == 2)
    none.model.add(sum(none.chosen) == 0)
    assert (both.solve(None).status, none.solve(None).status) == ("infeasible", "infeasible")


def test_a_malformed_model_is_a_defect() -> None:
    broken = choice()
    large = broken.model.new_int_var(0, 2**60, "large")
    broken.model.add(2**60 * large <= 5)
    with pytest.raises(RuntimeError, match="CP-SAT refused the model"):
        broken.solve(None)


def test_most_layers_is_the_last_count_that_fits() -> None:
    columns = stages_of(table(layout(), layout(pipeline_parallel=2)))
    # At 20 bytes of states and casts a parameter plus activations the model of 4 layers needs 308 kB.
    for memory, expected in ((10_000_000, 4), (309_096, 4), (309_095, 3), (40_000, 0)):
        asked = problem(hardware={"memory_bytes": Bytes(memory)})
        assert most_layers(asked, columns, fits_device)[0] == expected


def test_pinned_layers_leave_one_count_for_each_stage() -> None:
    columns = table(layout(), layout(pipeline_parallel=2))
    pinned = stage_limits(problem(pins={"layers_per_stage": "1,3"}), columns)
    assert pinned.fewest[1:].tolist() == pinned.most[1:].tolist() == [1, 3]
    assert pinned.fitting_layouts(NUM_LAYERS).tolist() == [False, True]


def test_a_stack_with_even_stages_leaves_even_layers() -> None:
    columns = table(layout(), layout(pipeline_parallel=2), layout(pipeline_parallel=3, layers_per_stage=(1, 1, 2)))
    even = stage_limits(problem(stack={"uneven_stages": False}), columns)
    assert even.fewest[:3].tolist() == [4, 2, 2]
    assert even.fitting_layouts(NUM_LAYERS).tolist() == [True, True, False]


def test_ends_that_count_as_layers_leave_one_layer_fewer_there() -> None:
    columns = table(layout(pipeline_parallel=3, layers_per_stage=(1, 2, 1)), layout(pipeline_parallel=2))
    even = stage_limits(problem(stack={"uneven_stages": False, "ends_as_layers": True}), columns)
    assert (even.fewest.tolist(), even.most.tolist()) == ([1, 2, 1, 2, 2], [2, 2, 2, 2, 2])
    assert even.fitting_layouts(NUM_LAYERS).tolist() == [True, True]


def test_ends_hold_what_the_sum_of_layers_leaves_them() -> None:
    stages = stages_of(table(layout(pipeline_parallel=3, layers_per_stage=(1, 2, 1)), layout(pipeline_parallel=2)))
    even = StageLimits(stages=stages, fewest=np.array([1, 2, 1, 1, 1]), most=np.array([2, 2, 2, 1, 2]))
    summed = even.within_sum(NUM_LAYERS)
    # Two stages that hold three layers at most, of four, stay as they are.
    assert (summed.fewest.tolist(), summed.most.tolist()) == ([1, 2, 1, 1, 1], [1, 2, 1, 1, 2])


def test_left_over_layers_go_to_the_middle() -> None:
    stages = stages_of(table(layout(pipeline_parallel=4)))
    free = StageLimits(stages=stages, fewest=np.ones(4, dtype=np.int64), most=np.full(4, 9))
    assert deal_evenly(free, free.most, 6).tolist() == [1, 2, 2, 1]
    assert deal_evenly(free, np.array([9, 1, 9, 9]), 6).tolist() == [2, 1, 2, 1]


def test_tables_are_the_cost_model_in_nanoseconds() -> None:
    asked = problem(hardware=slow_hardware(), num_devices=2)
    free = stage_limits(asked, table(layout(pipeline_parallel=2)))
    tables = time_tables(asked, free)
    uneven = np.array([1, 3])
    slowest = tables.microbatch.at(uneven).max()
    by_hand = tables.fixed[0] + tables.microbatch.at(uneven).sum() + 7 * slowest + tables.tail.at(uneven).max()
    assert tables.step(uneven).tolist() == [by_hand]
    assert tables.microbatch.layers_within(tables.microbatch.at(uneven)).tolist() == [1, 3]


def test_limits_of_chosen_layouts() -> None:
    kept = limits([1, 1, 1], [4, 2, 3]).take_layouts(np.array([False, True]))
    assert (kept.fewest.tolist(), kept.most.tolist()) == ([1, 1], [2, 3])
    assert replace(kept, most=np.array([1, 1])).fitting_layouts(NUM_LAYERS).tolist() == [False]


def test_large_integers_do_not_make_the_exact_model_infeasible() -> None:
    # Times of a second and more lie beyond 2^31 ticks; one of CP-SAT's detections trips over them.
    slow = {
        "peak_flops_per_s": {"bf16": 1e7},
        "memory_bandwidth_bytes_per_s": 1e6,
        "kernel_launch_s": 0.0,
        "node_link": {"bandwidth_bytes_per_s": 1e6, "latency_s": 1e-3},
        "network": {"bandwidth_bytes_per_s": 1e5, "latency_s": 1e-2},
        "host": {"memory_bandwidth_bytes_per_s": 1e6, "device_bandwidth_bytes_per_s": 1e5},
    }
    asked = problem(
        model={"num_layers": 5, "vocab_size": 16, "tied_embeddings": False},
        hardware=slow,
        num_devices=8,
        stack={"schedules": ("none", "1f1b"), "zero_stages": (0, 1), "sequence_parallel": False, "recompute": "none"},
        devices_per_node=2,
        global_batch=12,
    )
    answer = solve(asked)
    assert answer.status == "optimal"
    assert answer.plan is not None
    assert answer.objective == pytest.approx(answer.plan.predicted.step_s, rel=1e-6)
