"""Communication time by hand: inside a node 1e9 B/s and 1 us a message on the tiny device."""

import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.communication import (
    behind_products,
    data_parallel_seconds,
    layer_collectives,
    message_seconds,
    message_wait_seconds,
    pipeline_seconds,
    replica_links,
    sharded_seconds,
    tensor_parallel_seconds,
    tied_embedding_seconds,
    zero_gather_seconds,
)
from planner.cost_model.compute import weight_products
from tests.helpers import layout, problem, problem_of, stages

REDUCE_S = 2 * (128 / 1e9 + 1e-6)
"""All-reduce of 8 * 16 * 2 = 256 bytes over two ranks."""
GATHER_S = 128 / 1e9 + 1e-6
LOSS_S = 3 * 2 * (16 / 1e9 + 1e-6)
"""Three all-reduces of 8 tokens * 4 bytes over two ranks."""


def test_layer_collectives_by_hand() -> None:
    # Two all-reduces forward, half of two backward; two more where the layer recomputes.
    once, again = layer_collectives(problem(), stages(tensor_parallel=2))
    assert once.tolist() == pytest.approx([3 * REDUCE_S])
    assert again.tolist() == pytest.approx([2 * REDUCE_S])


def test_layer_collectives_take_what_the_stack_does_beside_the_links() -> None:
    asked = problem(stack={"traffic": {"collective_s": 0.5}})
    once, again = layer_collectives(asked, stages(tensor_parallel=2))
    assert once.tolist() == pytest.approx([3 * (REDUCE_S + 0.5)])
    assert again.tolist() == pytest.approx([2 * (REDUCE_S + 0.5)])
    assert layer_collectives(asked, stages()).once.tolist() == [0.0]
    four = (
        layer_collectives(asked, stages(tensor_parallel=4)).once
        - layer_collectives(problem(), stages(tensor_parallel=4)).once
    )
    assert four.tolist() == pytest.approx([3 * 2 * 0.5])


def test_tensor_parallel_seconds_by_hand() -> None:
    terms = tensor_parallel_seconds(problem(), stages(tensor_parallel=2, recompute_layers_per_stage=(3,)))
    # Two all-reduces forward, half of two backward, two for each recomputed layer.
    assert terms["layers"].tolist() == pytest.approx([(4 * (2 + 2 * 0.5) + 3 * 2) * REDUCE_S])
    assert terms["embedding_and_loss"].tolist() == pytest.approx([2 * REDUCE_S + LOSS_S])


def test_tensor_parallel_seconds_under_sequence_parallelism_gather_twice_more() -> None:
    terms = tensor_parallel_seconds(problem(), stages(tensor_parallel=2, sequence_parallel=True))
    # Backward: two gathers of output gradients, two of inputs, half of two scatters.
    assert terms["layers"].tolist() == pytest.approx([4 * (2 * REDUCE_S + 5 * GATHER_S)])


def test_tensor_parallel_seconds_do_not_gather_inputs_that_the_stack_keeps() -> None:
    kept = problem(stack={"activations": {"gathered_elements": 2.0}})
    terms = tensor_parallel_seconds(kept, stages(tensor_parallel=2, sequence_parallel=True))
    assert terms["layers"].tolist() == pytest.approx([4 * (2 * REDUCE_S + 3 * GATHER_S)])


def test_tensor_parallel_seconds_leave_grids_to_their_own_formulas() -> None:
    terms = tensor_parallel_seconds(problem(), stages(tensor_mode="2d", tensor_parallel=4))
    assert all((column == 0).all() for column in terms.values())


def test_tensor_parallel_seconds_at_the_ends_of_a_pipeline() -> None:
    terms = tensor_parallel_seconds(problem(), stages(tensor_parallel=2, pipeline_parallel=2))
    assert terms["embedding_and_loss"].tolist() == pytest.approx([REDUCE_S, REDUCE_S + LOSS_S])


def test_tensor_parallel_seconds_are_zero_for_one_rank() -> None:
    terms = tensor_parallel_seconds(problem(), stages(pipeline_parallel=2))
    assert all((column == 0).all() for column in terms.values())


def test_pipeline_seconds_by_hand() -> None:
    message = 256 / 1e9 + 1e-6
    seconds = pipeline_seconds(problem(), stages(pipeline_parallel=4))
    assert seconds.tolist() == pytest.approx([message, 2 * message, 2 * message, message])


def test_pipeline_seconds_of_interleaved_chunks() -> None:
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    message = 256 / 1e9 + 1e-6
    assert pipeline_seconds(problem(), chunked).tolist() == pytest.approx([4 * message, 4 * message])


def test_pipeline_seconds_of_interleaved_chunks_that_computation_hides() -> None:
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    hidden = problem(stack={"overlap": {"pipeline": 1.0}})
    assert pipeline_seconds(hidden, chunked).tolist() == [0.0, 0.0]
    assert pipeline_seconds(hidden, stages(pipeline_parallel=2))[0] > 0


def test_pipeline_seconds_use_the_network_where_a_boundary_crosses_nodes() -> None:
    two_nodes = problem(devices_per_node=2)
    seconds = pipeline_seconds(two_nodes, stages(pipeline_parallel=4))
    # 1e8 B/s; the message passes PCIe (1 us), the network (10 us) and PCIe again.
    assert seconds[0] == pytest.approx(256 / 1e8 + 12e-6)


def test_message_wait_seconds_are_those_of_the_first_stage_between_two_others() -> None:
    """Of four stages the second: 2 boundaries with 8 micro batches, and one from it to the last less one it shares."""
    waits = problem(stack={"traffic": {"message_host_s": 0.25, "message_tensors": 3.0}})
    two, four = (stages(pipeline_parallel=count, num_microbatches=8) for count in (2, 4))
    assert message_wait_seconds(waits, two).tolist() == pytest.approx([0.75 * 8] * 2)
    assert message_wait_seconds(waits, four).tolist() == pytest.approx([0.75 * (2 * 8 + 1)] * 4)
    assert message_wait_seconds(waits, stages()).tolist() == [0.0]
    plain, waiting = (predict(asked, layout(pipeline_parallel=4)).step_s for asked in (problem(), waits))
    assert waiting - plain == pytest.approx(message_wait_seconds(waits, stages(pipeline_parallel=4))[0])


@pytest.mark.parametrize(("depth", "count"), [(2, 3), (3, 4), (4, 8), (6, 5)])
def test_message_wait_seconds_are_what_one_stage_after_the_other_waits(depth: int, count: int) -> None:
    """A schedule played, in which computation takes nothing: both ends of a tensor wait once the later one is there."""
    order = [one_forward_one_backward(stage, depth, count) for stage in range(depth)]
    clocks, at = [0.0] * depth, [0] * depth
    posted: dict[tuple[int, int, tuple[str, int, int]], tuple[float, int]] = {}
    while any(place < len(own) for place, own in zip(at, order, strict=True)):
        for stage, own in enumerate(order):
            if at[stage] == len(own):
                continue
            peer, message = own[at[stage]]
            if (peer, stage, message) in posted and at[peer] >= posted[peer, stage, message][1]:
                began = max(clocks[stage], posted[peer, stage, message][0])
                clocks[stage] = clocks[peer] = began + 1.0
                at[stage] += 1
                at[peer] += 1
            else:
                posted[stage, peer, message] = (clocks[stage], at[stage])
    waits = problem(stack={"traffic": {"message_host_s": 1.0, "message_tensors": 3.0}}, num_devices=depth)
    asked = stages(pipeline_parallel=depth, layers_per_stage=(1,) * depth, num_microbatches=count)
    assert message_wait_seconds(waits, asked)[0] == max(clocks)


def one_forward_one_backward(stage: int, depth: int, count: int) -> list[tuple[int, tuple[str, int, int]]]:
    """Messages of a stage in their order, with the stage at the other end: two tensors forward, one backward."""
    before, after = stage - 1, stage + 1
    warm_up = min(count, depth - 1 - stage)

    def forward(number: int, peer: int) -> list[tuple[int, tuple[str, int, int]]]:
        return [(peer, ("forward", number, part)) for part in range(2)] if 0 <= peer < depth else []

    def backward(number: int, peer: int) -> list[tuple[int, tuple[str, int, int]]]:
        return [(peer, ("backward", number, 0))] if 0 <= peer < depth else []

    sent = []
    for number in range(warm_up):
        sent += forward(number, before) + forward(number, after)
    for number in range(count - warm_up):
        sent += forward(warm_up + number, before)
        sent += backward(number - 1, before) if number else []
        sent += forward(warm_up + number, after) + backward(number, after)
    sent += backward(count - warm_up - 1, before)
    for number in range(count - warm_up, count):
        sent += backward(number, after) + backward(number, before)
    return sent


def test_pipeline_seconds_are_zero_for_one_stage() -> None:
    assert pipeline_seconds(problem(), stages()).tolist() == [0.0]


@pytest.mark.parametrize(("zero_stage", "num_microbatches", "ring_steps"), [(0, 8, 2), (1, 8, 3), (2, 1, 2), (2, 8, 9)])
def test_data_parallel_seconds_by_hand(zero_stage: int, num_microbatches: int, ring_steps: int) -> None:
    divided = stages(data_parallel=2, zero_stage=zero_stage, num_microbatches=num_microbatches)
    seconds = data_parallel_seconds(problem(num_devices=2), divided)
    # 15328 parameters of 2 bytes, half of them to the other rank in each step of the ring.
    assert seconds.tolist() == pytest.approx([ring_steps * (15328 / 1e9 + 1e-6)])


def test_data_parallel_seconds_by_layer_wait_for_the_links_with_each() -> None:
    asked = problem(num_devices=2, stack={"zero_traffic": {"by_layer": True}})
    seconds = data_parallel_seconds(asked, stages(data_parallel=2))
    assert seconds.tolist() == pytest.approx([2 * (15328 / 1e9 + 4e-6)])


def test_data_parallel_seconds_are_zero_for_one_rank() -> None:
    assert data_parallel_seconds(problem(), stages(zero_stage=1)).tolist() == [0.0]


def test_data_parallel_seconds_under_zero_3_are_zero() -> None:
    assert data_parallel_seconds(problem(num_devices=2), stages(data_parallel=2, zero_stage=3)).tolist() == [0.0]


def test_sharded_seconds_by_hand() -> None:
    divided = stages(data_parallel=2, zero_stage=3, recompute_layers_per_stage=(3,))
    once = 15328 / 1e9 + 15328 / 3280 * 1e-6
    assert sharded_seconds(problem(num_devices=2), divided).tolist() == pytest.approx([3 * once])
    again = problem(num_devices=2, stack={"sharded": {"recompute_gathers": 1.0}})
    # Three of four layers are gathered once more: 9840 parameters, three pieces.
    more = 9840 / 1e9 + 3 * 1e-6
    assert sharded_seconds(again, divided).tolist() == pytest.approx([3 * once + more])


def test_sharded_seconds_of_tensors_that_are_gathered_by_themselves() -> None:
    many = problem(num_devices=2, stack={"sharded": {"collectives_per_unit": 12.0}})
    seconds = sharded_seconds(many, stages(data_parallel=2, zero_stage=3))
    assert seconds.tolist() == pytest.approx([3 * (15328 / 1e9 + 12 * 15328 / 3280 * 1e-6)])


def test_sharded_seconds_of_a_model_below_one_piece_are_an_all_reduce() -> None:
    small = problem(num_devices=2, stack={"sharded": {"unit_parameters": 10**6}})
    seconds = sharded_seconds(small, stages(data_parallel=2, zero_stage=3))
    assert seconds.tolist() == pytest.approx([2 * (15328 / 1e9 + 1e-6)])


def test_sharded_seconds_are_zero_below_zero_3() -> None:
    assert sharded_seconds(problem(num_devices=2), stages(data_parallel=2, zero_stage=2)).tolist() == [0.0]


def test_tied_embedding_seconds_by_hand() -> None:
    seconds = tied_embedding_seconds(problem(num_devices=2), stages(pipeline_parallel=2))
    # 128 * 16 * 2 = 4096 bytes between two stages.
    assert seconds.tolist() == pytest.approx([2 * (2048 / 1e9 + 1e-6)] * 2)


def test_tied_embedding_seconds_are_zero_without_a_pair() -> None:
    assert tied_embedding_seconds(problem(), stages()).tolist() == [0.0]
    untied = problem(model={"tied_embeddings": False})
    assert tied_embedding_seconds(untied, stages(pipeline_parallel=2)).tolist() == [0.0, 0.0]


def test_tied_embedding_seconds_stay_in_the_node_that_holds_the_whole_pipeline() -> None:
    """Two pipelines of four stages, each filling one node: ranks 0 and 3, and ranks 4 and 7, are pairs."""
    pairs = layout(pipeline_parallel=4, data_parallel=2, num_microbatches=4)
    asked = problem_of(pairs, devices_per_node=4)
    seconds = tied_embedding_seconds(asked, stages(pipeline_parallel=4, data_parallel=2, num_microbatches=4))
    assert seconds.tolist() == pytest.approx([2 * (2048 / 1e9 + 1e-6)] * 4)


def test_tied_embedding_seconds_leave_the_node_with_a_pipeline_over_two() -> None:
    seconds = tied_embedding_seconds(problem(devices_per_node=2), stages(pipeline_parallel=4))
    assert seconds[0] == pytest.approx(2 * (2048 / 1e8 + 12e-6))


def test_zero_gather_seconds_by_hand() -> None:
    exposed = problem(num_devices=2, stack={"overlap": {"gathers_hide": False}})
    # One of the steps of a ring over two ranks: half of 15328 parameters of two bytes, and a hop.
    for zero_stage, seconds in ((0, 0.0), (1, 15328 / 1e9 + 1e-6), (2, 15328 / 1e9 + 1e-6), (3, 0.0)):
        rows = stages(data_parallel=2, zero_stage=zero_stage)
        assert zero_gather_seconds(exposed, rows).tolist() == pytest.approx([seconds])
        assert zero_gather_seconds(problem(num_devices=2), rows).tolist() == [0.0]


MEGATRON = {"rank_order": "pipeline-data-tensor"}


def test_pipeline_seconds_leave_the_node_where_replicas_fill_it() -> None:
    """Two replicas of two stages on two nodes of two: a stage is a node, or half of each."""
    replicas = stages(pipeline_parallel=2, data_parallel=2)
    near, far = (problem(num_devices=4, devices_per_node=2, stack=stack) for stack in ({}, MEGATRON))
    assert pipeline_seconds(near, replicas)[0] == pytest.approx(256 / 1e9 + 1e-6)
    assert pipeline_seconds(far, replicas)[0] == pytest.approx(256 / 1e8 + 12e-6)
    assert data_parallel_seconds(far, replicas)[0] < data_parallel_seconds(near, replicas)[0] / 5


def test_tied_embedding_seconds_by_the_order_of_the_stack() -> None:
    replicas = stages(pipeline_parallel=2, data_parallel=2)
    far = problem(num_devices=4, devices_per_node=2, stack=MEGATRON)
    assert tied_embedding_seconds(far, replicas)[0] == pytest.approx(2 * (2048 / 1e8 + 12e-6))


def test_pipeline_seconds_of_slices_that_the_next_stage_gathers() -> None:
    sliced = problem(num_devices=4, stack={"pipeline_slices": True})
    halves = stages(tensor_parallel=2, pipeline_parallel=2)
    assert pipeline_seconds(sliced, halves)[0] == pytest.approx(128 / 1e9 + 1e-6 + GATHER_S)
    sequence = stages(tensor_parallel=2, pipeline_parallel=2, sequence_parallel=True)
    assert pipeline_seconds(sliced, sequence)[0] == pytest.approx(128 / 1e9 + 1e-6)


def test_layer_collectives_of_slices_take_time_to_meet() -> None:
    rows = stages(tensor_parallel=2, sequence_parallel=True)
    slow = problem(stack={"traffic": {"slice_collective_s": 0.5}})
    plain, met = layer_collectives(problem(), rows), layer_collectives(slow, rows)
    # Forward 4; backward gathers 4 and exposes half of 2 scatters.
    assert met.once[0] - plain.once[0] == pytest.approx(9 * 0.5)
    assert met.recomputed[0] - plain.recomputed[0] == pytest.approx(4 * 0.5)
    whole = stages(tensor_parallel=2)
    assert layer_collectives(slow, whole).once[0] == layer_collectives(problem(), whole).once[0]


def test_replica_links_reach_over_both_axes_of_ranks_with_the_same_weights() -> None:
    question = problem(num_devices=8)
    # Two data-parallel ranks of 2 x 2: each group has two neighbours on each of both nodes.
    both = replica_links(question, stages(data_parallel=2, tensor_parallel=2, sequence_parallel_degree=2))
    inside = replica_links(question, stages(sequence_parallel_degree=4))
    assert inside[0].tolist() == [1e9]
    assert both[0].tolist() == [2e8]


def test_message_seconds_by_hand() -> None:
    in_v = stages(pipeline_parallel=2, schedule="zbv", num_model_chunks=2)
    assert message_seconds(problem(), in_v).tolist() == pytest.approx([256 / 1e9 + 1e-6] * 2)
    assert pipeline_seconds(problem(), in_v).tolist() == [0, 0]


def test_behind_products_hides_each_collective_of_slices_behind_the_product_beside_it() -> None:
    own = {"overlap": {"far_slices": 1.0, "tensor_parallel": 0.5}}
    far, near = (problem(num_devices=4, devices_per_node=nodes, stack=own) for nodes in (2, 4))
    rows, gather = stages(tensor_parallel=4, sequence_parallel=True), np.array([1e9])
    seconds = weight_products(far, rows).values()
    (qkv, output, inner, outer) = seconds
    hidden = behind_products(far, rows, gather)
    assert hidden.forward[0] == pytest.approx((qkv.output + inner.output)[0] / 4)
    whole = qkv.of_input + qkv.of_weight + inner.of_input + inner.of_weight
    assert hidden.backward[0] == pytest.approx((whole + (output.of_input + outer.of_input) / 4)[0])
    # No more than the collectives themselves: two gathers and two scatters, in forward two gathers of slices.
    short = behind_products(far, rows, np.array([1e-12]))
    assert (short.forward[0], short.backward[0]) == pytest.approx((2e-12, 6e-12))
    for asked, columns in ((near, rows), (far, stages(tensor_parallel=4)), (problem(devices_per_node=2), rows)):
        assert [one.tolist() for one in behind_products(asked, columns, gather)] == [[0.0], [0.0]]
