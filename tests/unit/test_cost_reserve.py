"""Memory beyond what is allocated, by hand: 1000 bytes of context and 100 for each axis on the tiny device."""

from planner.cost_model.reserve import (
    device_overhead_bytes,
    fragmentation_share,
    reserve_bytes,
    usable_bytes,
)
from planner.problem import Reserve
from planner.units import Bytes
from tests.helpers import problem, stages


def test_device_overhead_bytes_by_hand() -> None:
    assert device_overhead_bytes(problem(), stages()).tolist() == [1000]
    assert device_overhead_bytes(problem(), stages(tensor_parallel=2, data_parallel=2)).tolist() == [1200]


def test_fragmentation_share_is_the_stack_s() -> None:
    asked = problem(stack={"fragmentation": 0.03, "sharded": {"fragmentation": 0.25}})
    assert fragmentation_share(asked, stages(zero_stage=2)).tolist() == [0.03]
    assert fragmentation_share(asked, stages(zero_stage=3)).tolist() == [0.25]
    assert fragmentation_share(problem(stack={"fragmentation": 0.03}), stages(zero_stage=3)).tolist() == [0.03]


def test_reserve_bytes_by_hand() -> None:
    assert reserve_bytes(problem(), stages()).tolist() == [1000]
    assert reserve_bytes(problem(), stages(tensor_parallel=2)).tolist() == [1100]
    divided = stages(tensor_parallel=2, pipeline_parallel=2, data_parallel=2)
    assert reserve_bytes(problem(stack={"fragmentation": 0.01}), divided).tolist() == [101300, 101300]


def test_reserve_bytes_as_the_user_stated_it() -> None:
    stated = problem(reserve=Reserve(num_bytes=Bytes(5), fraction=0.01))
    assert reserve_bytes(stated, stages(tensor_parallel=2)).tolist() == [5 + 100_000]
    assert usable_bytes(stated, stages()).tolist() == [10_000_000 - 100_005]
