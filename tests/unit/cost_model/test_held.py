"""Blocks that wait for collectives, by hand: a hidden state is 8 tokens of 16 two-byte elements, two a layer wait."""

import pytest

from planner.cost_model.compute import layer_seconds
from planner.cost_model.held import held_bytes, host_lead, largest_tensor_bytes, layer_device_seconds, seconds_ahead
from planner.cost_model.pipeline import outside_layers_seconds
from planner.specs.units import Seconds
from tests.helpers import problem, stages

LAYER = 2 * 256
LAUNCHES = 18
"""Of a block with 14 kernels and 4 products."""
BUSY_HOST = {"layer_host_s": Seconds(1.0)}


def test_layers_ahead_without_a_pipeline_are_those_that_the_queue_of_launches_holds() -> None:
    deep = {"tensor_parallel": 2, "layers_per_stage": (2,)}
    forward, both = ({"num_microbatches": count} for count in (1, 8))
    for layers, held in ((1, 1), (2, 2), (4, 3), (9, 4)):  # Backward launches twice as much.
        ahead = problem(stack={"process": {"held_launches": layers * LAUNCHES}})
        assert held_bytes(ahead, stages(**deep, **both)).tolist() == [held * LAYER]
        assert held_bytes(ahead, stages(**deep, **forward)).tolist() == [min(held, 2) * LAYER]


def test_seconds_ahead_are_those_of_all_micro_batches_and_none_with_a_busy_host() -> None:
    asked = stages(tensor_parallel=2, num_microbatches=8)
    leading = problem(hardware={"kernel_launch_s": Seconds(0)})
    forward, backward = layer_device_seconds(leading, asked)
    device = 4 * (forward + backward)[0] + outside_layers_seconds(leading, asked)[0]
    assert seconds_ahead(leading, asked).tolist() == pytest.approx([8 * device])
    assert seconds_ahead(problem(stack={"traffic": BUSY_HOST}), asked).tolist() == [0.0]
    launches = {"process": {"held_launches": 100 * LAUNCHES}}
    assert held_bytes(problem(stack=launches | {"traffic": BUSY_HOST}), asked).tolist() == [0.0]


def test_seconds_ahead_of_a_host_whose_devices_wait_for_the_slowest_one() -> None:
    asked, spread = stages(tensor_parallel=2, num_microbatches=8), BUSY_HOST | {"host_spread": 0.01}
    # Forward and twice as much backward of four layers of a second each.
    expected = pytest.approx([8 * 0.01 * 3 * 4], rel=1e-2)
    assert seconds_ahead(problem(stack={"traffic": spread}), asked).tolist() == expected
    piped = stages(tensor_parallel=2, pipeline_parallel=2, num_microbatches=8)
    assert seconds_ahead(problem(stack={"traffic": spread}), piped).tolist() == [0.0, 0.0]
    together = spread | {"collective_rank_host_s": Seconds(0.001)}
    assert seconds_ahead(problem(stack={"traffic": together}), asked).tolist() == [0.0]


def test_layer_device_seconds_share_collectives_out_over_three_passes() -> None:
    alone, two = stages(), stages(tensor_parallel=2)
    assert layer_device_seconds(problem(), alone) == layer_seconds(problem(), alone)
    forward, backward = layer_device_seconds(problem(), two)
    own = layer_seconds(problem(), two)
    assert (backward - own.backward).tolist() == pytest.approx((2 * (forward - own.forward)).tolist())


def test_host_lead_and_the_fill_are_ahead_in_a_pipeline() -> None:
    launches = {"process": {"held_launches": 100 * LAUNCHES}}
    four = stages(pipeline_parallel=4, tensor_parallel=2, layers_per_stage=(2, 2, 2, 2), num_microbatches=8)
    two = stages(pipeline_parallel=2, tensor_parallel=2, layers_per_stage=(2, 2), num_microbatches=8)
    busy = problem(stack=launches | {"traffic": BUSY_HOST})
    assert host_lead(busy, two).tolist() == [0.0, 0.0]
    assert held_bytes(busy, two).tolist() == [0.0, 0.0]
    assert held_bytes(busy, four).tolist() == [2 * 2 * LAYER, 0.0, 0.0, 0.0]
    leading = problem(stack=launches, hardware={"kernel_launch_s": Seconds(0)})
    assert host_lead(leading, two).tolist() == [1.0, 1.0]
    assert held_bytes(leading, two).tolist() == [(2 + 2) * LAYER, 2 * LAYER]  # Forward and backward; forward.
    waiting = problem(stack=launches | {"traffic": {"message_host_s": Seconds(0.1)}})
    assert held_bytes(waiting, four).tolist() == [0.0] * 4


def test_held_bytes_are_none_without_tensor_parallelism_or_launches_ahead() -> None:
    launches = {"process": {"held_launches": 54}}
    assert held_bytes(problem(stack=launches), stages()).tolist() == [0.0]
    assert held_bytes(problem(), stages(tensor_parallel=2)).tolist() == [0.0]


def test_largest_tensor_bytes_are_of_the_widest_product_or_the_logits() -> None:
    halves = stages(pipeline_parallel=2, layers_per_stage=(2, 2))
    # 8 tokens, 64 units of the feed-forward in two bytes and 128 logits in four.
    assert largest_tensor_bytes(problem(), halves).tolist() == [8 * 64 * 2, 8 * 128 * 4]
    assert largest_tensor_bytes(problem(), stages(tensor_parallel=2)).tolist() == [8 * 128 * 4 / 2]
