"""Memory beyond what is allocated, by hand: 1000 bytes of context and 100 for each axis on the tiny device."""

from typing import Any

import msgspec
import numpy as np
import pytest

from planner.cost_model.intervals import memory_bound
from planner.cost_model.reserve import (
    communicators,
    device_overhead_bytes,
    fragmentation_share,
    memory_margin,
    other_stream_bytes,
    reserve_bytes,
    room,
    usable_bytes,
)
from planner.layouts.layout import Offload
from planner.layouts.problem import Reserve
from planner.specs.units import Bytes
from tests.helpers import problem, stages, tiny_stack


def test_device_overhead_bytes_by_hand() -> None:
    assert device_overhead_bytes(problem(), stages()).tolist() == [1000]
    assert device_overhead_bytes(problem(), stages(tensor_parallel=2, data_parallel=2)).tolist() == [1200]


def test_fragmentation_share_is_the_stack_s() -> None:
    asked = problem(stack={"fragmentation": 0.03, "sharded": {"fragmentation": 0.25}})
    assert fragmentation_share(asked, stages(zero_stage=2)).tolist() == [0.03]
    assert fragmentation_share(asked, stages(zero_stage=3)).tolist() == [0.25]
    assert fragmentation_share(problem(stack={"fragmentation": 0.03}), stages(zero_stage=3)).tolist() == [0.03]


@pytest.mark.parametrize(
    ("divided", "count"),
    [
        ({}, 0),
        ({"tensor_parallel": 2}, 1),
        ({"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 2}, 3),
        ({"tensor_mode": "2d", "tensor_parallel": 4}, 2),
        ({"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}, 3),
        ({"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2}, 1),
        ({"tensor_mode": "3d", "tensor_parallel": 8}, 3),
    ],
)
def test_communicators_are_one_for_each_axis(divided: Any, count: int) -> None:
    assert communicators(problem(), stages(**divided))[0] == count


def test_communicators_of_experts_are_two_more() -> None:
    row = stages(data_parallel=2, expert_parallel=2)
    assert communicators(problem(), row)[0] == communicators(problem(), stages(data_parallel=2))[0] + 2


def test_communicators_as_the_stack_counts_them() -> None:
    counts = {"all_ranks": 1.0, "pipeline": 2.0, "data_parallel": 0.0, "tensor_parallel": {"1d": 2.0}, "sharded": 2.0}
    asked = problem(stack={"process": counts})
    assert communicators(asked, stages()).tolist() == [0]
    assert communicators(asked, stages(data_parallel=2)).tolist() == [1]
    assert communicators(asked, stages(zero_stage=3)).tolist() == [2]
    assert communicators(asked, stages(tensor_parallel=2)).tolist() == [1 + 3]
    assert communicators(asked, stages(tensor_parallel=2, pipeline_parallel=2)).tolist() == [1 + 3 + 2] * 2


def test_device_overhead_bytes_as_the_stack_states_them() -> None:
    stated = problem(stack={"process": {"context_bytes": Bytes(5000), "communicator_bytes": Bytes(7)}})
    assert device_overhead_bytes(stated, stages(tensor_parallel=2)).tolist() == [5007]


def test_memory_margin_is_fragmentation_and_what_memory_does_not_exceed_at_the_asked_probability() -> None:
    asked = problem(stack={"fragmentation": 0.03}, confidence=0.9)
    bound = memory_bound(asked, "data", 0.9)
    assert bound > 0
    assert memory_margin(asked, stages()).tolist() == pytest.approx([1.03 * (1 + bound) - 1])
    sharded = msgspec.structs.replace(tiny_stack().sharded, fragmentation=0.1)
    asked = problem(stack={"fragmentation": 0.03, "sharded": sharded}, confidence=0.0)
    assert memory_margin(asked, stages(data_parallel=2, zero_stage=3)).tolist() == pytest.approx([0.1])


def test_room_is_what_the_card_has_over_the_peak_with_its_fragments() -> None:
    asked = problem(stack={"fragmentation": 0.25})
    assert room(asked, stages(), np.array([4_000_000.0])).tolist() == pytest.approx([(10_000_000 - 1000) / 5_000_000])


def test_a_stated_reserve_and_a_stated_probability_both_hold() -> None:
    small, large = (Reserve(num_bytes=Bytes(amount)) for amount in (5, 9_000_000))
    usual = reserve_bytes(problem(confidence=None), stages()).tolist()
    assert reserve_bytes(problem(reserve=small, confidence=None), stages()).tolist() == [5]
    assert reserve_bytes(problem(reserve=small, confidence=0.95), stages()).tolist() == usual
    assert reserve_bytes(problem(reserve=large, confidence=0.95), stages()).tolist() == [9_000_000]


def test_reserve_bytes_by_hand() -> None:
    assert reserve_bytes(problem(), stages()).tolist() == [1000]
    assert reserve_bytes(problem(), stages(tensor_parallel=2)).tolist() == [1100]
    divided = stages(tensor_parallel=2, pipeline_parallel=2, data_parallel=2)
    quarter = problem(stack={"fragmentation": 0.25})
    assert reserve_bytes(quarter, divided).tolist() == pytest.approx([1300 + (10_000_000 - 1300) / 5] * 2)


def test_reserve_bytes_leave_room_for_a_peak_with_its_margin() -> None:
    asked = problem(stack={"fragmentation": 0.25})
    largest = usable_bytes(asked, stages(tensor_parallel=2))
    assert (largest * 1.25 + 1100).tolist() == pytest.approx([10_000_000])


def test_reserve_bytes_as_the_user_stated_it() -> None:
    stated = problem(reserve=Reserve(num_bytes=Bytes(5), fraction=0.01), confidence=None)
    assert reserve_bytes(stated, stages(tensor_parallel=2)).tolist() == [5 + 100_000]
    assert usable_bytes(stated, stages()).tolist() == [10_000_000 - 100_005]


def test_device_overhead_bytes_of_a_context_with_all_kernels() -> None:
    eager = {"process": {"eager_kernels": True}}
    card = {"eager_context_bytes": Bytes(3000)}
    assert device_overhead_bytes(problem(stack=eager, hardware=card), stages()).tolist() == [3000]
    assert device_overhead_bytes(problem(stack=eager), stages()).tolist() == [1000]
    assert device_overhead_bytes(problem(hardware=card), stages()).tolist() == [1000]


def test_other_stream_bytes_are_a_ranks_pieces_once_more() -> None:
    asked = problem(num_devices=4, stack={"sharded": {"other_stream": 2.0}})
    assert other_stream_bytes(asked, stages(data_parallel=4, zero_stage=3)).tolist() == [15328 / 4 * 2]
    half = Offload(optimizer=0.5, tier="cpu")
    assert other_stream_bytes(asked, stages(data_parallel=4, zero_stage=3, offload=half)).tolist() == [15328 / 4]
    assert other_stream_bytes(asked, stages(data_parallel=4, zero_stage=2)).tolist() == [0]
    assert other_stream_bytes(asked, stages(zero_stage=3)).tolist() == [0]
