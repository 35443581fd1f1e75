"""Training states of one rank, by hand: 15328 parameters on one device."""

from typing import Any

import pytest

from planner.cost_model.parameters import stage_parameters
from planner.cost_model.states import (
    bucket_bytes,
    cast_bytes,
    gather_bytes,
    gathered_bytes,
    slice_bytes,
    state_bytes,
    step_buffers,
    step_bytes,
    step_gradient_bytes,
)
from planner.cost_model.terms import total
from planner.layouts.layout import Offload
from planner.specs.units import Bytes
from tests.helpers import changed, problem, stages

WHOLE = {"weights": 30656, "gradients": 30656, "master_weights": 61312, "optimizer_moments": 122624}
"""2, 2, 4 and 8 bytes of 15328 parameters."""
ON_HOST = Offload(optimizer=1.0, tier="cpu")
REUSED = {"sharded": {"gradients_reuse_weights": True}}
PIECES = {"sharded": {"unit_parameters": 4096}}


@pytest.mark.parametrize(
    ("zero_stage", "sharded"),
    [
        (0, {}),
        (1, {"master_weights": 30656, "optimizer_moments": 61312}),
        (2, {"master_weights": 30656, "optimizer_moments": 61312, "gradients": 15328}),
    ],
)
def test_state_bytes_by_hand(zero_stage: int, sharded: dict[str, int]) -> None:
    states = state_bytes(problem(), stages(data_parallel=2, zero_stage=zero_stage))
    assert {name: column[0] for name, column in states.items()} == WHOLE | sharded


def test_state_bytes_of_full_precision() -> None:
    states = state_bytes(problem(precision="fp32"), stages(precision="fp32"))
    assert [column[0] for column in states.values()] == [4 * 15328, 4 * 15328, 0, 8 * 15328]


def test_state_bytes_leave_the_device_with_offload() -> None:
    states = state_bytes(problem(), stages(data_parallel=2, zero_stage=1, offload=ON_HOST))
    assert {name: column[0] for name, column in states.items()} == WHOLE | {"master_weights": 0, "optimizer_moments": 0}


def test_bucket_bytes_by_hand() -> None:
    assert bucket_bytes(problem(), stages()).tolist() == [2 * 15328]
    assert bucket_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [0, 0]
    assert bucket_bytes(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [2 * 1000]


def test_bucket_bytes_are_no_larger_than_the_gradients() -> None:
    roomy = problem(stack={"zero_bucket_bytes": Bytes(10**6)})
    assert bucket_bytes(roomy, stages(data_parallel=2, zero_stage=1)).tolist() == [2 * 2 * 15328]


def test_step_gradient_bytes_by_hand() -> None:
    assert step_gradient_bytes(problem(), stages()).tolist() == [2 * 15328]
    assert step_gradient_bytes(problem(), stages(data_parallel=4, zero_stage=1)).tolist() == [4 * 15328 / 4]


def test_gather_bytes_by_hand() -> None:
    assert gather_bytes(problem(), stages(data_parallel=4, zero_stage=1)).tolist() == [4 * 1000]
    roomy = problem(stack={"zero_bucket_bytes": Bytes(10**6)})
    assert gather_bytes(roomy, stages(data_parallel=4, zero_stage=1)).tolist() == [2 * 15328]


def test_gather_bytes_are_zero_for_one_rank_or_without_zero() -> None:
    assert gather_bytes(problem(), stages(zero_stage=1)).tolist() == [0]
    assert gather_bytes(problem(), stages(data_parallel=4)).tolist() == [0]


@pytest.mark.parametrize(
    ("stack", "num_microbatches", "gradients"), [({}, 1, 7664), ({}, 8, 7664), (REUSED, 1, 0), (REUSED, 8, 7664)]
)
def test_state_bytes_under_zero_3(stack: Any, num_microbatches: int, gradients: int) -> None:
    divided = stages(data_parallel=4, zero_stage=3, num_microbatches=num_microbatches)
    states = state_bytes(problem(stack=stack), divided)
    assert {name: column[0] for name, column in states.items()} == {
        "weights": 7664,
        "gradients": gradients,
        "master_weights": 15328,
        "optimizer_moments": 30656,
    }


def test_state_bytes_of_offloaded_shares_under_zero_3() -> None:
    half = Offload(optimizer=1.0, parameters=0.5, tier="cpu")
    states = state_bytes(problem(), stages(data_parallel=4, zero_stage=3, offload=half))
    assert [column[0] for column in states.values()] == [3832, 0, 0, 0]


def test_state_bytes_of_a_model_below_one_piece_are_not_divided() -> None:
    small = problem(stack={"sharded": {"unit_parameters": 10**6}})
    states = state_bytes(small, stages(data_parallel=4, zero_stage=3))
    assert {name: column[0] for name, column in states.items()} == WHOLE


def test_bucket_bytes_of_a_pipeline_and_of_zero_3_are_zero_in_backward() -> None:
    piped = stages(pipeline_parallel=2, data_parallel=2, zero_stage=1)
    assert bucket_bytes(problem(), piped).tolist() == [0, 0]
    assert bucket_bytes(problem(), stages(data_parallel=2, zero_stage=3)).tolist() == [0]


def test_bucket_bytes_in_a_grid_are_zero() -> None:
    assert bucket_bytes(problem(), stages(tensor_mode="2d", tensor_parallel=4)).tolist() == [0]


def test_gathered_bytes_by_hand() -> None:
    divided = stages(data_parallel=4, zero_stage=3)
    terms = gathered_bytes(problem(), divided)
    # The largest piece's weights; a layer's weights and its gradients.
    assert {name: column.tolist() for name, column in terms.items()} == {"head": [2 * 3072], "layer": [4 * 3280]}
    ahead = problem(stack={"sharded": {"live_units": 2.0, "gradient_units": 0.5, "unit_parameters": 4096}})
    assert gathered_bytes(ahead, divided)["layer"].tolist() == [4096 * (2 * 2 + 1)]


def test_gathered_bytes_are_zero_below_zero_3() -> None:
    terms = gathered_bytes(problem(), stages(data_parallel=4, zero_stage=2))
    assert [column.tolist() for column in terms.values()] == [[0], [0]]


def test_step_gradient_bytes_under_zero_3_are_the_stack_s_for_pieces() -> None:
    divided = stages(data_parallel=4, zero_stage=3)
    assert step_gradient_bytes(problem(), divided).tolist() == [0]
    full = problem(stack={"sharded": {"step_gradient": 4.0}})
    assert step_gradient_bytes(full, divided).tolist() == [15328]


def test_step_bytes_are_the_largest_of_gradients_gathers_and_late_buckets() -> None:
    assert step_bytes(problem(), stages()).tolist() == [2 * 15328]
    assert step_bytes(problem(), stages(data_parallel=4, zero_stage=1)).tolist() == [15328]
    roomy = problem(stack={"zero_bucket_bytes": Bytes(10**6)})
    piped = stages(pipeline_parallel=2, data_parallel=2, zero_stage=1)
    # Two flattened copies of the gradients of 8736 and 8640 parameters.
    assert step_bytes(roomy, piped).tolist() == [2 * 2 * 8736, 2 * 2 * 8640]


def test_step_bytes_include_copies_that_the_stack_makes() -> None:
    copies = problem(stack={"mixed_precision": {"zero_step_copy": 0.5}})
    assert step_bytes(copies, stages(data_parallel=4, zero_stage=1)).tolist() == [15328 + 0.5 * 15328]
    assert step_bytes(copies, stages()).tolist() == [2 * 15328]


def test_gather_bytes_are_zero_where_weights_arrive_in_place() -> None:
    in_place = problem(stack={"zero_gathers_in_place": True})
    assert gather_bytes(in_place, stages(data_parallel=4, zero_stage=1)).tolist() == [0]


def test_step_buffers_by_hand() -> None:
    gradients, gathered, late = step_buffers(problem(), stages(data_parallel=4, zero_stage=1))
    assert (gradients.tolist(), gathered.tolist(), late.tolist()) == ([15328], [4 * 1000], [0])


def test_cast_bytes_by_hand() -> None:
    assert cast_bytes(problem(), stages()).tolist() == [0]
    cast = problem(stack={"mixed_precision": {"tensor_cast": 4.0}})
    # The embedding has 128 * 16 parameters, the products of the feed-forward 64 * 16.
    assert cast_bytes(cast, stages(pipeline_parallel=3, layers_per_stage=(2, 1, 1))).tolist() == [8192, 4096, 8192]
    assert cast_bytes(cast, stages(tensor_parallel=2)).tolist() == [4096]


def test_gather_bytes_are_equal_parts_of_all_weights_where_the_stack_sets_their_size() -> None:
    divided = stages(data_parallel=4, zero_stage=1)
    # 30656 bytes of weights: three parts of at least 10000, or all of them at once.
    assert gather_bytes(problem(stack={"zero_gather_bytes": Bytes(10_000)}), divided).tolist() == [30656 / 3]
    assert gather_bytes(problem(stack={"zero_gather_bytes": Bytes(10**6)}), divided).tolist() == [30656]


def test_bucket_bytes_come_after_the_last_backward_where_the_stack_reduces_late() -> None:
    late = problem(stack={"zero_reduces_late": True})
    divided = stages(data_parallel=4, zero_stage=1)
    assert bucket_bytes(late, divided).tolist() == [0]
    assert step_buffers(late, divided)[2].tolist() == [2 * 1000]


def test_buckets_exist_twice_on_small_ranks_of_stacks_that_hold_them() -> None:
    # 15328 parameters on one rank and half the layers' on each of two.
    once, twice = problem(), problem(stack={"ddp_twice_up_to": 15_000.0})
    assert bucket_bytes(twice, stages()).tolist() == bucket_bytes(once, stages()).tolist()
    split = stages(tensor_parallel=2)
    assert bucket_bytes(twice, split).tolist() == [2 * bucket_bytes(once, split)[0]]
    assert bucket_bytes(once, split)[0] > 0


def test_state_bytes_of_pieces_that_stay_in_full_precision_alone() -> None:
    divided = stages(data_parallel=4, zero_stage=3)
    both, alone = problem(), problem(stack={"sharded": {"keeps_weights": False}})
    assert state_bytes(both, divided)["weights"].tolist() == [2 * 15328 / 4]
    assert state_bytes(alone, divided)["weights"].tolist() == [0]
    assert state_bytes(alone, stages())["weights"].tolist() == [2 * 15328]


def test_bucket_bytes_of_ddp_in_a_pipeline_are_there_without_zero_alone() -> None:
    wrapped = problem(stack={"ddp_with_pipeline": True})
    divided = {"pipeline_parallel": 2, "data_parallel": 2}
    parameters = total(stage_parameters(wrapped, stages(**divided))).tolist()
    assert bucket_bytes(wrapped, stages(**divided)).tolist() == [2.0 * count for count in parameters]
    assert bucket_bytes(problem(), stages(**divided)).tolist() == [0.0, 0.0]
    assert bucket_bytes(wrapped, stages(**divided, zero_stage=1)).tolist()[0] < parameters[0]
    for other in ({"pipeline_parallel": 2}, {}):
        assert bucket_bytes(wrapped, stages(**other)).tolist()[0] == 0.0


def test_slice_bytes_are_there_for_each_rank_where_the_stack_copies_them() -> None:
    divided, apart = stages(data_parallel=4, zero_stage=1), problem(stack={"zero_copies_slices": True})
    assert slice_bytes(problem(), divided).tolist() == [0]
    assert slice_bytes(apart, stages(data_parallel=4)).tolist() == [0]
    assert slice_bytes(apart, divided).tolist() == [30656 / 4]
    # One flat tensor of all weights, the slices of four ranks and the rank's own.
    flat = changed(apart, stack={"zero_gather_bytes": Bytes(10**6)})
    assert gather_bytes(flat, divided).tolist() == [30656 + 5 * 30656 / 4]
