"""Compute time by hand: 5e11 FLOP/s and 5e8 B/s are what the tiny device reaches."""

from typing import Any

import msgspec
import pytest

from planner.cost_model.attention_time import attention_seconds
from planner.cost_model.compute import (
    element_wise_seconds,
    embedding_seconds,
    final_norm_seconds,
    head_forward_seconds,
    layer_host_seconds,
    layer_kernels,
    layer_seconds,
    loss_seconds,
    microbatch_compute,
    product_slowdown,
    recomputed_layer_seconds,
    summa_steps,
    weight_gradient_seconds,
    weight_product_seconds,
    weight_products,
)
from planner.specs import TilesSpec
from planner.specs.units import Seconds
from tests.helpers import problem, stages, tiny_llama

LAYER_S = 2048 / 5e11 + (10240 + 7680) / 5e8
"""Half of 2 * 2048 FLOP of attention; operands and results of four products, which take longer than their
FLOP, 2560 + 1024 + 2 * 3328 bytes, and 8 * 16 * 2 * (10 + 20) bytes of element-wise work."""
FAST_MEMORY = {"memory_bandwidth_bytes_per_s": 1e15}
"""Memory so fast that products take as long as their FLOP."""


def test_layer_seconds_by_hand() -> None:
    layer = layer_seconds(problem(), stages())
    assert layer.forward.tolist() == pytest.approx([LAYER_S])
    assert layer.backward.tolist() == pytest.approx([2 * LAYER_S])


def test_weight_product_seconds_by_hand() -> None:
    assert weight_product_seconds(problem(), stages()).forward.tolist() == pytest.approx([10240 / 5e8])
    fast = problem(hardware=FAST_MEMORY)
    assert weight_product_seconds(fast, stages()).forward.tolist() == pytest.approx([49152 / 5e11])
    # Two ranks: 2 * (128 + 384 + 192), 2 * (64 + 128 + 128), 2 * (128 + 512 + 256) and as much again.
    halves = stages(tensor_parallel=2)
    assert weight_product_seconds(problem(), halves).forward.tolist() == pytest.approx([(1408 + 640 + 2 * 1792) / 5e8])


def test_weight_product_seconds_in_a_grid_are_those_of_smaller_products() -> None:
    curve = {"efficiency": {"matmul": ((1.0, 0.1), (1e6, 0.5))}} | FAST_MEMORY
    flat, whole = stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4), stages()
    fast = problem(hardware=FAST_MEMORY)
    assert weight_product_seconds(fast, flat).forward.tolist() == pytest.approx([49152 / 5e11])
    slow = problem(hardware=curve)
    assert weight_product_seconds(slow, flat).forward[0] > weight_product_seconds(slow, whole).forward[0]


def test_layer_seconds_of_materialised_attention_compute_every_score() -> None:
    asked = problem(stack={"activations": {"attention": "materialised"}})
    assert layer_seconds(asked, stages()).forward.tolist() == pytest.approx([LAYER_S + 2048 / 5e11])


def test_layer_seconds_under_tensor_and_sequence_parallelism() -> None:
    products = (1408 + 640 + 2 * 1792) / 5e8 + 1024 / 5e11
    plain = layer_seconds(problem(), stages(tensor_parallel=2)).forward
    sequence = layer_seconds(problem(), stages(tensor_parallel=2, sequence_parallel=True)).forward
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


def test_layer_host_seconds_wait_before_collectives() -> None:
    """Four all-reduces in three passes over two ranks."""
    asked = problem(stack={"traffic": {"layer_host_s": 4.0, "collective_rank_host_s": 0.75}})
    assert layer_host_seconds(asked, stages(tensor_parallel=2)).tolist() == pytest.approx([4.0 + 4 * 2 * 0.75 / 3])
    assert layer_host_seconds(asked, stages()).tolist() == [4.0]


def test_head_forward_seconds_by_hand() -> None:
    seconds = head_forward_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([0.0, 32768 / 5e11])


def test_loss_seconds_by_hand() -> None:
    seconds = loss_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([0.0, 8 * 128 * 10 * 2 / 5e8])


def test_embedding_seconds_by_hand() -> None:
    seconds = embedding_seconds(problem(), stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([8 * 8 * 16 * 2 / 5e8, 0.0])


def test_final_norm_seconds_by_hand() -> None:
    parts = {"norm_elements": (2.0, 3.0)}
    llama = msgspec.structs.replace(problem(stack={"parts": parts}), model=tiny_llama())
    seconds = final_norm_seconds(llama, stages(pipeline_parallel=2))
    assert seconds.tolist() == pytest.approx([0.0, 8 * 16 * 2 * 5 / 5e8])
    assert final_norm_seconds(problem(stack={"parts": parts}), stages()).tolist() == [0.0]


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


def test_microbatch_compute_recomputes_attention_alone_where_the_stack_does() -> None:
    stack = {"activations": {"attention": "recomputed"}, "traffic": {"score_elements": 3.0}}
    asked, kept = problem(stack=stack), problem(stack=stack | {"activations": {"attention": "materialised"}})
    half = stages(recompute_layers_per_stage=(3,))
    again = microbatch_compute(asked, half)["layers_backward"] - microbatch_compute(kept, half)["layers_backward"]
    assert again.tolist() == pytest.approx(attention_seconds(asked, half).forward.tolist())


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


def test_weight_product_seconds_of_unaligned_sides() -> None:
    blocks = problem(hardware=FAST_MEMORY | {"efficiency": {"alignment": 32, "unaligned": 0.5}})
    # Hidden states of 16 are no multiple of 32, the 48 of q, k and v neither; the 64 of the feed-forward are.
    flops = 2 * 8 * 16 * (48 * 4 + 16 * 4 + 64 * 2 * 2)
    assert weight_product_seconds(blocks, stages()).forward.tolist() == pytest.approx([flops / 5e11])


HIDDEN_BYTES = 8 * 16 * 2
"""A hidden state of the tiny micro batch."""


def test_element_wise_seconds_by_hand() -> None:
    passes = element_wise_seconds(problem(), stages())
    assert passes.forward.tolist() == pytest.approx([HIDDEN_BYTES * 30 / 5e8])
    assert passes.backward.tolist() == pytest.approx([HIDDEN_BYTES * 60 / 5e8])


def test_element_wise_seconds_of_a_backward_with_its_own_count_and_of_dropout() -> None:
    traffic = {"backward_replicated_elements": 25.0, "backward_sharded_elements": 50.0, "dropout_elements": 6.0}
    dropped = problem(model={"dropout": 0.1}, stack={"traffic": traffic})
    passes = element_wise_seconds(dropped, stages(tensor_parallel=2))
    assert passes.forward.tolist() == pytest.approx([HIDDEN_BYTES * (10 + 6 + 20 / 2) / 5e8])
    assert passes.backward.tolist() == pytest.approx([HIDDEN_BYTES * (25 + 6 + 50 / 2) / 5e8])
    kept = element_wise_seconds(problem(stack={"traffic": traffic}), stages())
    assert kept.forward.tolist() == pytest.approx([HIDDEN_BYTES * 30 / 5e8])


def test_element_wise_seconds_add_biases_of_divided_products_in_forward() -> None:
    asked = problem(stack={"traffic": {"bias_passes": 5.0}})
    assert element_wise_seconds(asked, stages()).forward.tolist() == pytest.approx([HIDDEN_BYTES * 30 / 5e8])
    # Outputs of 2 h are whole, of 3 h and of f = 4 h divided by two.
    divided = element_wise_seconds(asked, stages(tensor_parallel=2))
    assert divided.forward.tolist() == pytest.approx([HIDDEN_BYTES * (10 + 10 + 5 * (2 + 3.5)) / 5e8])
    assert divided.backward.tolist() == pytest.approx([HIDDEN_BYTES * 40 / 5e8])


def test_element_wise_seconds_of_a_grid() -> None:
    asked = problem(stack={"traffic": {"grid_elements": 12.0}})
    # An edge of two halves tokens and hidden states.
    passes = element_wise_seconds(asked, stages(tensor_mode="2d", tensor_parallel=4))
    assert passes.forward.tolist() == pytest.approx([HIDDEN_BYTES / 2 * (30 + 12) / 2 / 5e8])
    assert passes.backward.tolist() == pytest.approx([HIDDEN_BYTES / 2 * (60 + 24) / 2 / 5e8])


def test_head_forward_seconds_of_an_unpadded_vocabulary_under_zero_3() -> None:
    odd: dict[str, Any] = {"model": {"vocab_size": 127}, "hardware": {"efficiency": {"odd": 0.25}}}
    rows = stages(data_parallel=2, zero_stage=3)
    assert head_forward_seconds(problem(**odd), rows).tolist() == pytest.approx([32768 / 5e11])
    unpadded = problem(**odd, stack={"sharded": {"pads_vocab": False}})
    assert head_forward_seconds(unpadded, rows).tolist() == pytest.approx([4 * 32768 / 5e11])
    assert head_forward_seconds(unpadded, stages()).tolist() == pytest.approx([32768 / 5e11])


def test_loss_seconds_of_a_split_vocabulary() -> None:
    asked = problem(stack={"traffic": {"split_loss_passes": 30.0}})
    assert loss_seconds(asked, stages()).tolist() == pytest.approx([8 * 128 * 10 * 2 / 5e8])
    assert loss_seconds(asked, stages(tensor_parallel=2)).tolist() == pytest.approx([8 * 64 * 30 * 2 / 5e8])


def test_layer_host_seconds_of_zero_buckets() -> None:
    asked = problem(stack={"traffic": {"layer_host_s": 4.0, "zero_layer_host_s": 8.0}})
    # 8 micro batches, of which ZeRO 1 reduces after the last and ZeRO 2 after each.
    assert layer_host_seconds(asked, stages(data_parallel=2, zero_stage=1)).tolist() == [5.0]
    assert layer_host_seconds(asked, stages(data_parallel=2, zero_stage=2)).tolist() == [12.0]
    assert layer_host_seconds(asked, stages(zero_stage=1)).tolist() == [4.0]


def test_head_forward_seconds_of_an_unpadded_vocabulary_on_one_rank() -> None:
    odd: dict[str, Any] = {"hardware": {"efficiency": {"odd": 0.5}}, "model": {"vocab_size": 127}}
    padded = problem(**odd, stack={"vocab_multiple": 128})
    bare = problem(**odd, stack={"vocab_multiple": 128, "pads_whole_vocab": False})
    assert head_forward_seconds(padded, stages()).tolist() == pytest.approx([32768 / 5e11])
    assert head_forward_seconds(bare, stages()).tolist() == pytest.approx([2 * 32768 / 5e11])
    halves = stages(tensor_parallel=2)
    assert head_forward_seconds(bare, halves).tolist() == head_forward_seconds(padded, halves).tolist()


def test_layer_seconds_have_a_part_that_no_shape_changes() -> None:
    fixed = layer_seconds(problem(stack={"traffic": {"layer_fixed_s": 0.5}}), stages())
    assert fixed.forward.tolist() == pytest.approx([LAYER_S + 0.5])
    assert fixed.backward.tolist() == pytest.approx([2 * LAYER_S + 1.0])


def test_weight_product_seconds_of_tiles_differ_in_forward_and_backward() -> None:
    tiles = TilesSpec(multiprocessors=1, rate=0.5, start_s=Seconds(0), shapes=((16, 16, 1.0),))
    asked = problem(hardware=FAST_MEMORY | {"efficiency": {"tiles": tiles}})
    products = weight_product_seconds(asked, stages())
    # Of 16 rows of a tile, 8 tokens fill half; gradients of weights have no such side.
    assert products.forward.tolist() == pytest.approx([2 * 49152 / 5e11])
    assert products.backward.tolist() == pytest.approx([3 * 49152 / 5e11])


def test_recomputed_layer_seconds_by_hand() -> None:
    plain = layer_seconds(problem(), stages()).forward
    assert recomputed_layer_seconds(problem(), stages()).tolist() == plain.tolist()
    early = {"traffic": {"recompute_stops_early": True}}
    # The last product moves 2 * (8 * 64 + 64 * 16 + 8 * 16) bytes.
    stopped = recomputed_layer_seconds(problem(stack=early), stages())
    assert stopped.tolist() == pytest.approx((plain - 3328 / 5e8).tolist())
    terms = microbatch_compute(problem(stack=early), stages(recompute_layers_per_stage=(3,)))
    assert terms["recompute"].tolist() == pytest.approx((3 * stopped).tolist())
    dropped = problem(stack=early, model={"dropout": 0.1})
    for asked, rows in ((dropped, stages()), (problem(stack=early), stages(tensor_parallel=2))):
        assert recomputed_layer_seconds(asked, rows).tolist() == layer_seconds(asked, rows).forward.tolist()


def test_weight_products_by_hand() -> None:
    products = weight_products(problem(), stages())
    # 2 * (8 * 16 + 16 * 48 + 8 * 48) bytes and so on; backward has two such products for each.
    moved = {"qkv": 2560, "attention_output": 1024, "ffn_in": 3328, "ffn_out": 3328}
    assert {name: product.output[0] for name, product in products.items()} == pytest.approx(
        {name: num_bytes / 5e8 for name, num_bytes in moved.items()}
    )
    assert products["qkv"].passes.backward.tolist() == pytest.approx([2 * 2560 / 5e8])


def test_weight_gradient_seconds_by_hand() -> None:
    # Of each product as long as its forward: all are bound by the same memory traffic.
    assert weight_gradient_seconds(problem(), stages()).tolist() == pytest.approx([(2560 + 1024 + 3328 + 3328) / 5e8])


DROOPING = TilesSpec(multiprocessors=1, rate=0.5, start_s=Seconds(0), shapes=((8, 16, 1.0),), droop=0.25)
"""Half slower where products follow each other."""


def test_product_slowdown_by_hand() -> None:
    asked = problem(hardware=FAST_MEMORY | {"efficiency": {"tiles": DROOPING}})
    # Beside the products half of 2 * 2048 FLOP of attention, three times, and what their element-wise kernels move.
    products = 3 * 49152 / 5e11
    busy = products / (products + 3 * 2048 / 5e11 + HIDDEN_BYTES * 90 / 5e14)
    assert product_slowdown(asked, stages()).tolist() == pytest.approx([1 + 2 * 0.25 * busy])
    assert product_slowdown(problem(), stages()).tolist() == [1.0]


def test_product_slowdown_is_that_of_layers_recomputation_and_head() -> None:
    steady = msgspec.structs.replace(DROOPING, droop=0.0)
    hot, cold = (problem(hardware=FAST_MEMORY | {"efficiency": {"tiles": one}}) for one in (DROOPING, steady))
    slower, products = product_slowdown(hot, stages())[0], weight_product_seconds(cold, stages())
    assert slower > 1.4
    for way in (0, 1):
        longer = layer_seconds(hot, stages())[way] - layer_seconds(cold, stages())[way]
        assert longer.tolist() == pytest.approx(((slower - 1) * products[way]).tolist())
    head = head_forward_seconds(cold, stages())
    assert head_forward_seconds(hot, stages()).tolist() == pytest.approx((slower * head).tolist())
    early = {"traffic": {"recompute_stops_early": True}}
    stopped = problem(hardware=FAST_MEMORY | {"efficiency": {"tiles": DROOPING}}, stack=early)
    last = weight_products(stopped, stages())["ffn_out"].output * slower
    left = layer_seconds(stopped, stages()).forward - recomputed_layer_seconds(stopped, stages())
    assert left.tolist() == pytest.approx(last.tolist())
