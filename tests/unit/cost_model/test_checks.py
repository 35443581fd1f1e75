"""Waits before collectives by hand: a second for each rank on the first node, ten for each on another."""

import pytest

from planner.cost_model import predict
from planner.cost_model.checks import end_check_seconds, layer_check_seconds, reduction_check_seconds
from planner.specs.units import Bytes
from tests.helpers import layout, problem, stages

CHECKED = {"traffic": {"collective_rank_host_s": 1.0, "collective_far_rank_host_s": 10.0}}


def test_layer_check_seconds_are_one_before_each_collective() -> None:
    asked = problem(stack=CHECKED)
    assert layer_check_seconds(asked, stages()).tolist() == [0.0]
    assert layer_check_seconds(asked, stages(tensor_parallel=2)).tolist() == [4 * 2.0]
    slices = stages(tensor_parallel=2, sequence_parallel=True)
    assert layer_check_seconds(asked, slices).tolist() == [10 * 2.0]
    keeps = problem(stack=CHECKED | {"activations": {"gathered_elements": 1.0}})
    assert layer_check_seconds(keeps, slices).tolist() == [8 * 2.0]
    far = problem(stack=CHECKED, devices_per_node=2)
    assert layer_check_seconds(far, stages(tensor_parallel=4)).tolist() == [4 * (2.0 + 2 * 10.0)]


def test_end_check_seconds_are_of_the_embedding_the_head_and_the_loss() -> None:
    ends = end_check_seconds(problem(stack=CHECKED), stages(tensor_parallel=2, pipeline_parallel=2))
    assert ends.tolist() == [2 * 2.0, 5 * 2.0]


def test_reduction_check_seconds_are_of_gradients_weights_and_the_loss() -> None:
    asked = problem(stack=CHECKED)
    plain, zero = (stages(data_parallel=4, num_microbatches=2, zero_stage=stage) for stage in (0, 1))
    assert reduction_check_seconds(asked, plain).tolist() == [2 * 4.0]
    assert reduction_check_seconds(asked, zero).tolist() == [3 * 4.0]
    assert reduction_check_seconds(asked, stages()).tolist() == [0.0]
    buckets = problem(stack=CHECKED | {"ddp_bucket_cap_bytes": Bytes(10**6)})
    assert reduction_check_seconds(buckets, plain).tolist() == pytest.approx([3 * 4.0], rel=0.01)
    apart = problem(stack=CHECKED, devices_per_node=2)
    spread = stages(data_parallel=2, tensor_parallel=2, num_microbatches=4)
    assert reduction_check_seconds(apart, spread).tolist() == [2 * (1.0 + 10.0)]


def test_steps_take_what_hosts_wait_before_collectives() -> None:
    shared = layout(data_parallel=4, num_microbatches=2)
    plain, waiting = (predict(asked, shared).step_s for asked in (problem(), problem(stack=CHECKED)))
    assert waiting - plain == pytest.approx(8.0)
