"""Optimizer step and offload by hand: 5e8 B/s is what the tiny device reaches of its memory."""

import pytest

from planner.cost_model.update import (
    accumulation_seconds,
    gather_copy_seconds,
    nvme_seconds,
    offload_seconds,
    optimizer_seconds,
    put_off_addition_seconds,
    sharded_copy_seconds,
    stage_tensors,
)
from planner.layouts.layout import Offload
from tests.helpers import problem, stages

SHARED = {"data_parallel": 2, "zero_stage": 3}


def test_optimizer_seconds_by_hand() -> None:
    whole = optimizer_seconds(problem(), stages(data_parallel=2))
    shard = optimizer_seconds(problem(), stages(data_parallel=2, zero_stage=1))
    assert whole.tolist() == pytest.approx([15328 * 40 / 5e8])
    assert shard.tolist() == pytest.approx([7664 * 40 / 5e8])


def test_optimizer_seconds_of_zero_handle_every_tensor_on_the_host() -> None:
    asked = problem(stack={"traffic": {"zero_tensor_host_s": 0.5}})
    # 12 tensors in each of 4 layers, two embeddings and a norm of two.
    sharded = optimizer_seconds(asked, stages(data_parallel=2, zero_stage=1))
    assert sharded.tolist() == pytest.approx([7664 * 40 / 5e8 + 52 * 0.5])
    for other in ({"data_parallel": 2}, {"zero_stage": 1}):
        assert optimizer_seconds(asked, stages(**other))[0] < 0.5


def test_optimizer_seconds_launch_a_copy_for_each_slice_where_the_stack_does() -> None:
    asked = problem(hardware={"kernel_launch_s": 1.0}, stack={"zero_copies_slices": True})
    shared = stages(data_parallel=4, zero_stage=1)
    tensors = sum(column[0] for column in stage_tensors(asked, shared).values())
    plain = problem(hardware={"kernel_launch_s": 1.0})
    more = optimizer_seconds(asked, shared) - optimizer_seconds(plain, shared)
    assert more.tolist() == pytest.approx([4 * tensors])
    assert optimizer_seconds(asked, stages(data_parallel=4)).tolist() == optimizer_seconds(plain, stages()).tolist()


def test_optimizer_seconds_leave_out_the_offloaded_share() -> None:
    half = Offload(optimizer=0.5, tier="cpu")
    seconds = optimizer_seconds(problem(), stages(data_parallel=2, zero_stage=1, offload=half))
    assert seconds.tolist() == pytest.approx([3832 * 40 / 5e8])


def test_offload_seconds_by_hand() -> None:
    # 7664 parameters a rank; 8 bytes each over 5e8 B/s, and 2 ranks share 4e9 B/s of host memory.
    offloaded = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu"))
    seconds = offload_seconds(problem(num_devices=2), offloaded)
    assert seconds.tolist() == pytest.approx([7664 * 8 / 5e8 + 2 * 7664 * 40 / 4e9])


def test_offload_seconds_copy_no_faster_than_the_stack() -> None:
    offloaded = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu"))
    slow_copies = problem(num_devices=2, stack={"offload_copy_bandwidth_bytes_per_s": 1e8})
    assert offload_seconds(slow_copies, offloaded).tolist() == pytest.approx([7664 * 8 / 1e8 + 2 * 7664 * 40 / 4e9])


def test_offload_seconds_are_zero_without_offload() -> None:
    assert offload_seconds(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [0.0]


def test_sharded_copy_seconds_by_hand() -> None:
    optimizer = Offload(optimizer=1.0, tier="cpu")
    # Master weights once, gradients to the host eight times and back seven times: 4 + 2 * 15 bytes.
    seconds = sharded_copy_seconds(problem(num_devices=2), stages(**SHARED, offload=optimizer))
    assert seconds.tolist() == pytest.approx([7664 * 34 / 5e8])
    once = stages(**SHARED, offload=optimizer, num_microbatches=1)
    assert sharded_copy_seconds(problem(num_devices=2), once).tolist() == pytest.approx([7664 * 6 / 5e8])


def test_sharded_copy_seconds_of_offloaded_weights() -> None:
    both = stages(**SHARED, offload=Offload(optimizer=1.0, parameters=0.5, tier="cpu"), num_microbatches=1)
    seconds = sharded_copy_seconds(problem(num_devices=2), both)
    # Half of the weights: out once, in once more for backward.
    assert seconds.tolist() == pytest.approx([7664 * (6 + 0.5 * 2 * 2) / 5e8])
    slow = problem(num_devices=2, stack={"sharded": {"copy_bandwidth_bytes_per_s": 1e8}})
    assert sharded_copy_seconds(slow, both).tolist() == pytest.approx([7664 * 8 / 1e8])


def test_sharded_copy_seconds_are_zero_below_zero_3() -> None:
    flat = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu"))
    assert sharded_copy_seconds(problem(num_devices=2), flat).tolist() == [0.0]


def test_nvme_seconds_by_hand() -> None:
    disk = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=0.5, tier="nvme"))
    # Half of 7664 parameters, eight bytes each, on two ranks; 1e8 B/s to read and as much to write.
    seconds = nvme_seconds(problem(num_devices=2), disk)
    assert seconds.tolist() == pytest.approx([2 * 3832 * 8 / 1e8 * 2])


def test_nvme_seconds_are_zero_on_the_host() -> None:
    host = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=0.5, tier="cpu"))
    assert nvme_seconds(problem(num_devices=2), host).tolist() == [0.0]


def test_offload_seconds_of_zero_3_copy_pieces_and_update_with_its_own_optimizer() -> None:
    offloaded = stages(**SHARED, offload=Offload(optimizer=1.0, tier="cpu"), num_microbatches=1)
    asked = problem(num_devices=2, stack={"traffic": {"host_optimizer_bytes": 94.0}})
    assert offload_seconds(asked, offloaded).tolist() == pytest.approx([7664 * 6 / 5e8 + 2 * 7664 * 94 / 4e9])


def test_offload_seconds_update_no_faster_than_one_process() -> None:
    offloaded = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu"))
    asked = problem(num_devices=2, stack={"traffic": {"host_bandwidth_bytes_per_s": 1e9}})
    assert offload_seconds(asked, offloaded).tolist() == pytest.approx([7664 * 8 / 5e8 + 7664 * 40 / 1e9])


def test_accumulation_seconds_by_hand() -> None:
    adds = problem(stack={"traffic": {"gradient_bytes": 6.0}})
    assert accumulation_seconds(adds, stages(num_microbatches=1)).tolist() == [0]
    assert accumulation_seconds(adds, stages(num_microbatches=2)).tolist() == pytest.approx([15328 * 6 / 5e8])
    buffered = problem(stack={"traffic": {"gradient_bytes": 6.0}, "mixed_precision": {"gradient_buffer": 4.0}})
    assert accumulation_seconds(buffered, stages(num_microbatches=1)).tolist() == pytest.approx([15328 * 6 / 5e8])
    own_share = stages(num_microbatches=2, data_parallel=4, zero_stage=2)
    assert accumulation_seconds(adds, own_share).tolist() == pytest.approx([15328 * 6 / 4 / 5e8])


def test_put_off_addition_seconds_are_a_third_of_what_additions_to_layers_take() -> None:
    adds = problem(stack={"traffic": {"gradient_bytes": 6.0}})
    in_v = {"pipeline_parallel": 2, "schedule": "zbv", "num_model_chunks": 2}
    # Two layers of 3280 parameters on each stage; the ends, 2048 + 128 + 32, are on the first.
    put_off = put_off_addition_seconds(adds, stages(**in_v))
    assert put_off.tolist() == pytest.approx([2 * 3280 * 2 / 5e8] * 2)
    others = accumulation_seconds(adds, stages(**in_v)) - put_off
    assert others.tolist() == pytest.approx([2208 * 6 / 5e8, 0])
    assert put_off_addition_seconds(adds, stages(**in_v, num_microbatches=1)).tolist() == [0, 0]
    assert put_off_addition_seconds(adds, stages(pipeline_parallel=2)).tolist() == [0, 0]


def test_gather_copy_seconds_by_hand() -> None:
    copies = {"stack": {"sharded": {"copied_bytes": 14.0}}}
    sharded = gather_copy_seconds(problem(num_devices=4, **copies), stages(data_parallel=4, zero_stage=3))
    assert sharded.tolist() == pytest.approx([15328 * 14 / 5e8])
    assert gather_copy_seconds(problem(**copies), stages(zero_stage=3)).tolist() == [0]
    assert gather_copy_seconds(problem(num_devices=4, **copies), stages(data_parallel=4)).tolist() == [0]


def test_optimizer_seconds_look_for_overflows_in_fp16_alone() -> None:
    checks = {"stack": {"traffic": {"overflow_tensor_host_s": 1.0}}}
    half = optimizer_seconds(problem(precision="fp16", **checks), stages())
    brain = optimizer_seconds(problem(precision="bf16", **checks), stages())
    assert (half - brain).tolist() == pytest.approx([12 * 4 + 4])


def test_stage_tensors_by_hand() -> None:
    counted = stage_tensors(problem(), stages(pipeline_parallel=2))
    assert {name: column.tolist() for name, column in counted.items()} == {
        "layers": [24.0, 24.0],
        "token_embedding": [1.0, 0.0],
        "position_embedding": [1.0, 0.0],
        "final_norm": [0.0, 2.0],
        "head": [0.0, 1.0],
    }
    assert stage_tensors(problem(), stages())["head"].tolist() == [0.0]
    assert stage_tensors(problem(model={"tied_embeddings": False}), stages())["head"].tolist() == [1.0]


def test_optimizer_seconds_without_zero_wait_for_the_host_where_the_device_is_faster() -> None:
    # 4 layers of 3280 parameters, 2048 and 128 of embeddings, 32 of the norm: 40 bytes of each at 5e8 B/s.
    moved = 15328 * 40 / 5e8
    idle = problem(stack={"traffic": {"tensor_host_s": 1e-6}})
    assert optimizer_seconds(idle, stages()).tolist() == pytest.approx([moved])
    slow = problem(stack={"traffic": {"tensor_host_s": 1e-4}})
    parts = max(48e-4, 4 * 3280 * 8e-8) + max(1e-4, 2048 * 8e-8) + max(1e-4, 128 * 8e-8) + max(2e-4, 32 * 8e-8)
    assert optimizer_seconds(slow, stages()).tolist() == pytest.approx([parts])
    assert parts > moved
    sharded = optimizer_seconds(slow, stages(data_parallel=2, zero_stage=1))
    assert sharded.tolist() == pytest.approx([moved / 2])


def test_optimizer_seconds_of_zero_move_the_gradients_of_the_whole_stage() -> None:
    asked = problem(stack={"traffic": {"zero_gradient_bytes": 30.0}})
    assert optimizer_seconds(asked, stages(zero_stage=1)).tolist() == pytest.approx([15328 * 40 / 5e8])
    sharded = optimizer_seconds(asked, stages(data_parallel=2, zero_stage=1))
    assert sharded.tolist() == pytest.approx([(7664 * 40 + 15328 * 30) / 5e8])


def test_offload_seconds_copy_back_at_a_rate_of_their_own() -> None:
    offloaded = stages(data_parallel=2, zero_stage=1, offload=Offload(optimizer=1.0, tier="cpu"))
    stack = {"offload_copy_bandwidth_bytes_per_s": 1e8, "offload_return_bandwidth_bytes_per_s": 2e8}
    copies = 7664 * 4 / 1e8 + 7664 * 4 / 2e8
    seconds = offload_seconds(problem(num_devices=2, stack=stack), offloaded)
    assert seconds.tolist() == pytest.approx([copies + 2 * 7664 * 40 / 4e9])
