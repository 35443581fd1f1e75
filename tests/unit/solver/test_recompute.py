"""What a stage recomputes: the fewest layers that fit, the least peak, and the times of its choices."""

from typing import Any

import msgspec
import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.memory import stage_memory
from planner.layouts.layout import Layout, columns_of
from planner.layouts.problem import Problem, Reserve
from planner.layouts.stages import StageColumns, stages_of
from planner.rules import violations
from planner.solver import solve
from planner.solver.limits import fits_device, stage_limits
from planner.solver.recompute import least_peak_bytes, needed, with_least_peak
from planner.solver.tables import Stepped, recompute_ticks, stepped, time_tables, window
from planner.specs.units import Bytes
from tests.helpers import layout, problem, slow_hardware

LAYERS = 4


def asked(**overrides: Any) -> Problem:
    """A problem whose stack recomputes layer by layer, on devices where times are whole milliseconds."""
    fields: dict[str, Any] = {"hardware": slow_hardware(), "stack": {"recompute": "per-layer"}, "num_devices": 2}
    return problem(**(fields | overrides))


def free(*layers: int) -> StageColumns:
    """The stages of a layout that may recompute anything, with some layers each."""
    recompute = tuple(1 if stage else 0 for stage in range(len(layers)))
    divided = layout(pipeline_parallel=len(layers), layers_per_stage=layers, recompute_layers_per_stage=recompute)
    return stages_of(columns_of(divided)).with_layers(np.array(layers))


@pytest.mark.parametrize(
    ("recompute", "word", "fewest", "most"),
    [
        ((0, 0), 0, (0, 0), (0, 0)),
        ((1, 3), 1, (1, 3), (1, 3)),
        ((0, 2), 3, (0, 0), (1, 3)),
        ((1, 2), 3, (0, 0), (1, 3)),
    ],
)
def test_the_word_of_a_layout_bounds_its_stages(
    recompute: tuple[int, int], word: int, fewest: tuple[int, int], most: tuple[int, int]
) -> None:
    one = layout(pipeline_parallel=2, layers_per_stage=(1, 3), recompute_layers_per_stage=recompute)
    columns = columns_of(one)
    stages = stages_of(columns).with_layers(np.array([1, 3]))
    assert columns.recompute.tolist() == [word]
    assert (tuple(stages.fewest_recomputed()), tuple(stages.most_recomputed())) == (fewest, most)


def test_some_leaves_out_none_and_all() -> None:
    some = columns_of(layout(pipeline_parallel=2, recompute_layers_per_stage=(1, 1)))
    assert some.recompute.tolist() == [2]
    stages = stages_of(some).with_layers(np.array([2, 4]))
    assert (stages.fewest_recomputed().tolist(), stages.most_recomputed().tolist()) == ([1, 1], [1, 3])
    assert stage_limits(asked(), some).fewest.tolist() == [2, 2]


@pytest.mark.parametrize("enough", [0, 1, 2, 3, 4])
def test_needed_is_the_first_count_that_fits(enough: int) -> None:
    found = needed(free(4, 4), lambda stages: np.asarray(stages.recompute_layers >= enough))
    assert found.tolist() == [enough, enough]


def test_needed_is_the_most_where_nothing_fits() -> None:
    assert needed(free(1, 3), lambda stages: np.zeros(len(stages), dtype=bool)).tolist() == [1, 3]


def test_the_least_peak_is_the_least_of_all_counts() -> None:
    stages = free(1, 3)
    peaks = [stage_memory(asked(), stages.with_recompute(np.full(2, count))).peak_bytes() for count in range(4)]
    by_hand = [min(peak[0] for peak in peaks[:2]), min(peak[1] for peak in peaks)]
    assert least_peak_bytes(asked(), stages).tolist() == by_hand
    # One layer keeps its input beside what it computes again, so a stage of one does better without.
    assert with_least_peak(asked(), stages).recompute_layers.tolist() == [0, 3]


def tight(recomputed: int) -> Problem:
    """A problem on whose devices one whole stage fits exactly when that many of its layers recompute."""
    one = layout(micro_batch=8, num_microbatches=1, recompute_layers_per_stage=(recomputed,))
    plain = asked(num_devices=1, reserve=Reserve(num_bytes=Bytes(0)))
    peak = Bytes(predict(plain, one).stages[0].peak_bytes + 1)
    return msgspec.structs.replace(plain, hardware=msgspec.structs.replace(plain.hardware, memory_bytes=peak))


@pytest.mark.parametrize("recomputed", [2, 3])
def test_a_plan_recomputes_no_more_than_it_needs(recomputed: int) -> None:
    answer = solve(msgspec.structs.replace(tight(recomputed), pins={"micro_batch": "8", "zero_stage": "0"}))
    assert answer.plan is not None
    assert answer.plan.layout.recompute_layers_per_stage == (recomputed,)
    assert answer.status == "optimal"


def test_a_pinned_word_holds_for_every_stage() -> None:
    for word, allowed in (("none", {0}), ("all", {LAYERS}), ("some", {1, 2, 3})):
        answer = solve(asked(num_devices=1, pins={"recompute_layers_per_stage": word}))
        assert answer.plan is not None
        assert set(answer.plan.layout.recompute_layers_per_stage) <= allowed


def test_a_forbidden_word_holds_for_every_stage() -> None:
    answer = solve(asked(num_devices=1, forbids={"recompute_layers_per_stage": ("none",)}))
    assert answer.plan is not None
    assert min(answer.plan.layout.recompute_layers_per_stage) >= 1


def whole_stage(recompute: int) -> Layout:
    return layout(pipeline_parallel=2, layers_per_stage=(2, 2), recompute_layers_per_stage=(recompute, 0))


def test_stepped_times_are_those_of_the_cost_model() -> None:
    question = asked()
    limits = stage_limits(question, columns_of(whole_stage(1)))
    tables = time_tables(question, limits)
    # On roomy devices nothing has to recompute, so the steps are the affine times.
    roomy = stepped(question, tables, limits)
    assert isinstance(roomy.microbatch, Stepped)
    for count in range(1, 4):
        layers = np.array([count, LAYERS - count])
        assert roomy.microbatch.at(layers).tolist() == tables.microbatch.at(layers).tolist()


def test_a_stage_that_has_to_recompute_takes_its_time() -> None:
    question = msgspec.structs.replace(tight(3), num_devices=1)
    limits = stage_limits(
        question, columns_of(layout(micro_batch=8, num_microbatches=1, recompute_layers_per_stage=(1,)))
    )
    assert not fits_device(question, limits.stages.with_layers(np.array([LAYERS]))).any()
    tables = time_tables(question, limits)
    curve = stepped(question, tables, limits).microbatch
    assert isinstance(curve, Stepped)
    assert curve.at(np.array([LAYERS])) > tables.microbatch.at(np.array([LAYERS]))
    recomputing = limits.stages.with_layers(np.array([LAYERS])).with_recompute(np.array([3]))
    added = recompute_ticks(question, recomputing, tables.tick_s)
    assert curve.at(np.array([LAYERS])) == tables.microbatch.at(np.array([LAYERS])) + added


CURVE = Stepped(fewest=np.array([1, 1]), counts=np.array([3, 3]), values=np.array([10, 20, 45, 5, 15, 25]))


def test_stepped_looks_values_up() -> None:
    assert CURVE.at(np.array([3, 1])).tolist() == [45, 5]
    assert CURVE.layers_within(np.array([20, 24])).tolist() == [2, 2]
    assert CURVE.layers_within(np.array([9, 99])).tolist() == [0, 3]
    assert CURVE.of_stage(1).tolist() == [5, 15, 25]


def test_the_least_sum_is_below_every_division_and_tight_on_convex_times() -> None:
    for num_layers in (2, 3, 4, 5, 6):
        sums = [
            int(CURVE.at(np.array([first, num_layers - first])).sum())
            for first in range(1, 4)
            if 1 <= num_layers - first <= 3
        ]
        assert CURVE.least_sum(np.array([0]), num_layers).tolist() == [min(sums)]


def test_a_window_leaves_out_what_cannot_keep_up() -> None:
    question = asked()
    tables = time_tables(question, stage_limits(question, columns_of(whole_stage(1))))
    best = float(tables.step(np.array([2, 2]))[0])
    within = window(tables, best)
    assert within.possible.tolist() == [True]
    assert within.slowest[0] == (best - tables.fixed[0]) // 8
    assert within.limits.most.tolist() == np.minimum(tables.microbatch.layers_within(within.slowest), 4).tolist()
    assert window(tables, best / 10).possible.tolist() == [False]


@pytest.mark.parametrize(
    ("recompute", "chunks", "is_kept"),
    [
        ((1, 1), 1, True),
        ((2, 2), 2, True),
        ((4, 4), 4, True),
        ((0, 0), 2, True),
        ((1, 0), 1, False),
        ((1, 1), 2, False),
    ],
)
def test_a_stack_that_recomputes_alike_takes_as_many_layers_of_every_chunk(
    recompute: tuple[int, int], chunks: int, is_kept: bool
) -> None:
    stack = {"recompute": "alike", "uneven_stages": False, "schedules": ("none", "1f1b", "interleaved")}
    one = layout(
        pipeline_parallel=2,
        schedule="interleaved" if chunks > 1 else "1f1b",
        num_model_chunks=chunks,
        layers_per_stage=(4, 4),
        recompute_layers_per_stage=recompute,
        num_microbatches=4,
    )
    told = asked(stack=stack, model={"num_layers": 8}, global_batch=one.global_batch)
    broken = [found for found in violations(told, one) if "alike" in found.message]
    assert bool(broken) is not is_kept


def test_stages_alike_recompute_what_the_fullest_needs_in_whole_chunks() -> None:
    def fits(stages: StageColumns) -> Any:
        return np.asarray(stages.recompute_layers >= np.where(stages.stage == 0, 3, 0))

    stages = free(8, 8)
    assert needed(stages, fits).tolist() == [3, 0]
    assert needed(stages, fits, alike=True).tolist() == [3, 3]
