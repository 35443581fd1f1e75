"""Compute time by hand: 5e11 FLOP/s and 5e8 B/s are what the tiny device reaches."""

import numpy as np
import pytest

from planner.cost_model.compute import (
    accumulation_seconds,
    alignment_share,
    attention_seconds,
    embedding_seconds,
    head_forward_seconds,
    layer_forward_seconds,
    layer_host_seconds,
    layer_kernels,
    loss_seconds,
    microbatch_compute,
    nvme_seconds,
    offload_seconds,
    optimizer_seconds,
    product_seconds,
    sharded_copy_seconds,
    summa_steps,
    traffic_seconds,
    weight_product_seconds,
)
from planner.layout import Offload
from tests.helpers import problem, stages

LAYER_S = 2048 / 5e11 + (10240 + 7680) / 5e8
"""Half of 2 * 2048 FLOP of attention; operands and results of four products, which take longer than their
FLOP, 2560 + 1024 + 2 * 3328 bytes, and 8 * 16 * 2 * (10 + 20) bytes of element-wise work."""
FAST_MEMORY = {"memory_bandwidth_bytes_per_s": 1e15}
"""Memory so fast that products take as long as their FLOP."""


def test_product_seconds_by_hand() -> None:
    assert product_seconds(problem(), np.array([0.0, 1000.0])).tolist() == [0.0, pytest.approx(2e-9)]


def test_product_seconds_interpolate_over_the_logarithm_and_stay_constant_beyond() -> None:
    curve = {"efficiency": {"matmul": ((10.0, 0.1), (1000.0, 0.3))}}
    seconds = product_seconds(problem(hardware=curve), np.array([1.0, 10.0, 100.0, 1000.0, 1e6]))
    assert seconds.tolist() == pytest.approx([1e-11, 1e-10, 5e-10, 1e-8 / 3, 1e-5 / 3])


def test_traffic_seconds_by_hand() -> None:
    assert traffic_seconds(problem(), np.array([0.0, 1000.0])).tolist() == [0.0, pytest.approx(2e-6)]


def test_layer_forward_seconds_by_hand() -> None:
    assert layer_forward_seconds(problem(), stages()).tolist() == pytest.approx([LAYER_S])


def test_weight_product_seconds_by_hand() -> None:
    assert weight_product_seconds(problem(), stages()).tolist() == pytest.approx([10240 / 5e8])
    fast = problem(hardware=FAST_MEMORY)
    assert weight_product_seconds(fast, stages()).tolist() == pytest.approx([49152 / 5e11])
    # Two ranks: 2 * (128 + 384 + 192), 2 * (64 + 128 + 128), 2 * (128 + 512 + 256) and as much again.
    halves = stages(tensor_parallel=2)
    assert weight_product_seconds(problem(), halves).tolist() == pytest.approx([(1408 + 640 + 2 * 1792) / 5e8])


def test_weight_product_seconds_in_a_grid_are_those_of_smaller_products() -> None:
    curve = {"efficiency": {"matmul": ((1.0, 0.1), (1e6, 0.5))}} | FAST_MEMORY
    flat, whole = stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4), stages()
    fast = problem(hardware=FAST_MEMORY)
    assert weight_product_seconds(fast, flat).tolist() == pytest.approx([49152 / 5e11])
    slow = problem(hardware=curve)
    assert weight_product_seconds(slow, flat)[0] > weight_product_seconds(slow, whole)[0]


def test_layer_forward_seconds_of_materialised_attention_compute_every_score() -> None:
    asked = problem(stack={"activations": {"attention": "materialised"}})
    assert layer_forward_seconds(asked, stages()).tolist() == pytest.approx([LAYER_S + 2048 / 5e11])


def test_layer_forward_seconds_under_tensor_and_sequence_parallelism() -> None:
    products = (1408 + 640 + 2 * 1792) / 5e8 + 1024 / 5e11
    plain = layer_forward_seconds(problem(), stages(tensor_parallel=2))
    sequence = layer_forward_seconds(problem(), stages(tensor_parallel=2, sequence_parallel=True))
    assert plain.tolist() == pytest.approx([products + 256 * (10 + 10) / 5e8])
    assert sequence.tolist() == pytest.approx([products + 256 * (5 + 10) / 5e8])


def test_layer_host_seconds_by_hand() -> None:
    slow_host = problem(hardware={"kernel_launch_s": 0.5})
    assert layer_host_seconds(slow_host, stages()).tolist() == [5 * 0.5]
    traffic = {"layer_host_s": 4.0, "tensor_parallel_host_s": 1.0, "sequence_parallel_host_s": 0.5}
    stated = problem(hardware={"kernel_launch_s": 0.5}, stack={"traffic": traffic, "sharded": {"layer_host_s": 8.0}})
    assert layer_host_seconds(stated, stages()).tolist() == [4.0]
    assert layer_host_seconds(stated, stages(tensor_parallel=2)).tolist() == [5.0]
    assert layer_host_seconds(stated, stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [5.5]
    assert layer_host_seconds(stated, stages(data_parallel=2, zero_stage=3)).tolist() == [12.0]


def test_head_forward_seconds_by_hand() -> None:
    seconds = head_forward_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([0.0, 32768 / 5e11])


def test_loss_seconds_by_hand() -> None:
    seconds = loss_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([0.0, 8 * 128 * 10 * 2 / 5e8])


def test_embedding_seconds_by_hand() -> None:
    seconds = embedding_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([8 * 8 * 16 * 2 / 5e8, 0.0])


def test_microbatch_compute_by_hand() -> None:
    terms = microbatch_compute(problem(), stages(recompute_layers_per_stage=(3,)))
    assert {name: column[0] for name, column in terms.items()} == pytest.approx(
        {
            "layers_forward": 4 * LAYER_S,
            "layers_backward": 8 * LAYER_S,
            "recompute": 3 * LAYER_S,
            "embedding": 2048 / 5e8,
            "loss_head": 3 * 32768 / 5e11 + 20480 / 5e8,
        }
    )


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


def test_attention_seconds_at_an_efficiency_of_their_own() -> None:
    asked = problem(stack={"traffic": {"attention_efficiency": 0.25}})
    assert attention_seconds(asked, stages()).tolist() == pytest.approx([2048 / 2.5e11])


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
    slow_copies = problem(num_devices=2, stack={"offload_copy_bytes_per_s": 1e8})
    assert offload_seconds(slow_copies, offloaded).tolist() == pytest.approx([7664 * 8 / 1e8 + 2 * 7664 * 40 / 4e9])


def test_offload_seconds_are_zero_without_offload() -> None:
    assert offload_seconds(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [0.0]


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("flash", 2048 / 5e11),
        ("unskipped", 4096 / 5e11),
        # 8 * 8 * 4 scores of two bytes, three times over the memory.
        ("materialised", 4096 / 5e11 + 256 * 2 * 3 / 5e8),
        ("recomputed", 4096 / 5e11 + 256 * 2 * 3 / 5e8),
    ],
)
def test_attention_seconds_by_hand(kind: str, seconds: float) -> None:
    asked = problem(stack={"activations": {"attention": kind}, "traffic": {"score_elements": 3.0}})
    assert attention_seconds(asked, stages()).tolist() == pytest.approx([seconds])


def test_microbatch_compute_recomputes_attention_alone_where_the_stack_does() -> None:
    stack = {"activations": {"attention": "recomputed"}, "traffic": {"score_elements": 3.0}}
    asked, kept = problem(stack=stack), problem(stack=stack | {"activations": {"attention": "materialised"}})
    half = stages(recompute_layers_per_stage=(3,))
    again = microbatch_compute(asked, half)["layers_backward"] - microbatch_compute(kept, half)["layers_backward"]
    assert again.tolist() == pytest.approx(attention_seconds(asked, half).tolist())


def test_summa_steps_are_the_edge_of_a_flat_grid() -> None:
    assert summa_steps(stages()).tolist() == [1]
    assert summa_steps(stages(tensor_mode="2d", tensor_parallel=16)).tolist() == [4]
    assert summa_steps(stages(tensor_mode="2.5d", tensor_parallel=8, tensor_depth=2)).tolist() == [2]
    assert summa_steps(stages(tensor_mode="3d", tensor_parallel=8)).tolist() == [1]


def test_layer_kernels_by_hand() -> None:
    assert layer_kernels(problem(), stages()).tolist() == [5]
    # Four products of two steps with four kernels each, in place of four products.
    assert layer_kernels(problem(), stages(tensor_mode="2d", tensor_parallel=4)).tolist() == [5 + 32 - 4]


SHARED = {"data_parallel": 2, "zero_stage": 3}


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
    slow = problem(num_devices=2, stack={"sharded": {"copy_bytes_per_s": 1e8}})
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
    asked = problem(num_devices=2, stack={"traffic": {"host_bytes_per_s": 1e9}})
    assert offload_seconds(asked, offloaded).tolist() == pytest.approx([7664 * 8 / 5e8 + 7664 * 40 / 1e9])


def test_alignment_share_by_hand() -> None:
    blocks = problem(hardware={"efficiency": {"alignment": 64, "unaligned": 0.5}})
    assert alignment_share(blocks, np.array([64.0, 1800.0, 1792.0])).tolist() == [1.0, 0.5, 1.0]
    assert alignment_share(problem(), np.array([1.0, 7.0])).tolist() == [1.0, 1.0]


def test_weight_product_seconds_of_unaligned_sides() -> None:
    blocks = problem(hardware=FAST_MEMORY | {"efficiency": {"alignment": 32, "unaligned": 0.5}})
    # Hidden states of 16 are no multiple of 32, the 48 of q, k and v neither; the 64 of the feed-forward are.
    flops = 2 * 8 * 16 * (48 * 4 + 16 * 4 + 64 * 2 * 2)
    assert weight_product_seconds(blocks, stages()).tolist() == pytest.approx([flops / 5e11])


def test_accumulation_seconds_by_hand() -> None:
    adds = problem(stack={"traffic": {"gradient_bytes": 6.0}})
    assert accumulation_seconds(adds, stages(num_microbatches=1)).tolist() == [0]
    assert accumulation_seconds(adds, stages(num_microbatches=2)).tolist() == pytest.approx([15328 * 6 / 5e8])
    own_share = stages(num_microbatches=2, data_parallel=4, zero_stage=2)
    assert accumulation_seconds(adds, own_share).tolist() == pytest.approx([15328 * 6 / 4 / 5e8])


def test_optimizer_seconds_look_for_overflows_in_fp16_alone() -> None:
    checks = {"stack": {"traffic": {"overflow_tensor_host_s": 1.0}}}
    half = optimizer_seconds(problem(precision="fp16", **checks), stages())
    brain = optimizer_seconds(problem(precision="bf16", **checks), stages())
    assert (half - brain).tolist() == pytest.approx([12 * 4 + 4])
