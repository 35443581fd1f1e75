"""The step of a small pipeline, by hand."""

import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.communication import data_parallel_seconds, layer_collectives
from planner.cost_model.compute import layer_seconds
from planner.cost_model.pipeline import host_seconds, outside_layers_seconds, pipeline_bubble, stage_times
from planner.cost_model.terms import total
from planner.specs import TensorMode
from tests.helpers import layout, problem, stages

LAYER_S = 2048 / 5e11 + (10240 + 7680) / 5e8
HEAD_S = 3 * 32768 / 5e11 + 20480 / 5e8
EMBEDDING_S = 2048 / 5e8
SEND_S = 256 / 1e9 + 1e-6


def test_stage_times_by_hand() -> None:
    times = stage_times(problem(num_devices=2), stages(pipeline_parallel=2, layers_per_stage=(1, 3)))
    first, last = 3 * LAYER_S + EMBEDDING_S + SEND_S, 9 * LAYER_S + HEAD_S + SEND_S
    assert total(times.microbatch).tolist() == pytest.approx([first, last])
    # 3280 + 2048 + 128 parameters on the first stage, 3 * 3280 + 32 + 2048 on the last.
    assert total(times.tail).tolist() == pytest.approx([5456 * 40 / 5e8, 11920 * 40 / 5e8])


def test_stage_times_hide_half_of_backward_behind_the_reduction() -> None:
    hidden = 0.5 * 8 * LAYER_S
    times = stage_times(problem(num_devices=2), stages(data_parallel=2))
    reduction = 2 * (15328 / 1e9 + 1e-6)
    assert times.tail["data_parallel_communication"].tolist() == pytest.approx([max(reduction - hidden, 0)])
    slow = problem(num_devices=2, hardware={"node_link": {"latency_s": 1e-3}})
    exposed = stage_times(slow, stages(data_parallel=2)).tail["data_parallel_communication"]
    assert exposed.tolist() == pytest.approx([2 * (15328 / 1e9 + 1e-3) - hidden])


def test_stage_times_hide_nothing_behind_a_pipeline() -> None:
    times = stage_times(problem(), stages(data_parallel=2, pipeline_parallel=2))
    # 2 * 3280 + 2048 + 128 and 2 * 3280 + 32 + 2048 parameters.
    expected = [2 * (8736 / 1e9 + 1e-6), 2 * (8640 / 1e9 + 1e-6)]
    assert times.tail["data_parallel_communication"].tolist() == pytest.approx(expected)


def test_pipeline_bubble_by_hand() -> None:
    # Three stages of 5 s in all, the slowest of 2 s: 3 s are filled and drained, half of it with two chunks.
    times = np.array([5.0]), np.array([2.0])
    assert pipeline_bubble(*times, np.array([1])).tolist() == [3]
    assert pipeline_bubble(*times, np.array([2])).tolist() == [1.5]


def test_host_seconds_are_what_a_layer_waits() -> None:
    slow = problem(stack={"traffic": {"layer_host_s": 1.0}})
    assert host_seconds(slow, stages()).tolist() == pytest.approx([4 * 3 * (1.0 - LAYER_S)])
    some = stages(recompute_layers_per_stage=(3,))
    assert host_seconds(slow, some).tolist() == pytest.approx([(3 + 3 * 4) * (1.0 - LAYER_S)])
    assert host_seconds(problem(), stages()).tolist() == [0.0]


def test_host_seconds_run_ahead_of_communication_too() -> None:
    slow = problem(num_devices=2, stack={"traffic": {"layer_host_s": 1e-3}})
    shared = stages(tensor_parallel=2)
    layer = sum(layer_seconds(slow, shared)) + layer_collectives(slow, shared).once
    assert host_seconds(slow, shared).tolist() == pytest.approx((4 * (3e-3 - layer)).tolist())


def test_outside_layers_seconds_hide_a_host_whose_time_outside_is_known() -> None:
    slow = problem(stack={"traffic": {"layer_host_s": 1.0, "outside_host_s": 0.5}})
    outside = outside_layers_seconds(slow, stages())
    assert outside.tolist() == pytest.approx([EMBEDDING_S + HEAD_S])
    assert host_seconds(slow, stages()).tolist() == pytest.approx((12 * (1.0 - LAYER_S) + 0.5 - outside).tolist())
    hidden = problem(stack={"traffic": {"layer_host_s": LAYER_S, "outside_host_s": HEAD_S / 2}})
    assert host_seconds(hidden, stages()).tolist() == [0.0]
    two = stages(pipeline_parallel=2)
    assert host_seconds(slow, two).tolist() == pytest.approx([2 * 3 * (1.0 - LAYER_S)] * 2)


def test_prediction_by_hand() -> None:
    prediction = predict(problem(num_devices=1), layout())
    step_s = 8 * (12 * LAYER_S + EMBEDDING_S + HEAD_S) + 15328 * 40 / 5e8
    assert prediction.step_s == pytest.approx(step_s)
    assert prediction.tokens_per_s == pytest.approx(64 / step_s)
    assert prediction.model_flops_per_s_per_gpu == pytest.approx(5898240 / step_s)
    assert prediction.mfu == pytest.approx(5898240 / step_s / 1e12)
    assert prediction.host_bytes_per_node == 0


@pytest.mark.parametrize("mode", ["2d", "2.5d", "3d"])
def test_prediction_of_a_grid_has_memory_and_communication(mode: TensorMode) -> None:
    degree = 8 if mode == "3d" else 4
    grid = layout(tensor_mode=mode, tensor_parallel=degree, micro_batch=8, num_microbatches=1)
    prediction = predict(problem(num_devices=degree), grid)
    assert prediction.breakdown_s["tensor_parallel_communication"] > 0
    whole = predict(problem(num_devices=1), layout(micro_batch=8, num_microbatches=1))
    assert prediction.stages[0].peak_bytes < whole.stages[0].peak_bytes


def test_host_seconds_that_nothing_hides() -> None:
    waits = problem(stack={"traffic": {"blocking_launches": True, "layer_host_s": 1.0}})
    assert host_seconds(waits, stages(recompute_layers_per_stage=(3,))).tolist() == [3 * 4 + 3]


def test_host_seconds_recompute_with_the_share_of_forward() -> None:
    some = stages(recompute_layers_per_stage=(3,))
    half = problem(stack={"traffic": {"layer_host_s": 1.0, "forward_host_share": 0.5}})
    # Three layers of 3 s of the host each once and a half, and one of 3 s.
    assert host_seconds(half, some).tolist() == pytest.approx([3 * (4.5 - 4 * LAYER_S) + 3 - 3 * LAYER_S])
    waits = problem(stack={"traffic": {"blocking_launches": True, "layer_host_s": 1.0, "forward_host_share": 0.5}})
    assert host_seconds(waits, some).tolist() == [3 * (4 + 3 / 2)]


def test_host_seconds_of_a_forward_that_nothing_before_it_hides() -> None:
    # The host takes 0.9 of a layer's time, 0.6 of it in forward, where the device takes a third.
    traffic = {"layer_host_s": 0.9 * LAYER_S, "forward_host_share": 2 / 3}
    waits = problem(num_devices=2, stack={"traffic": {**traffic, "forward_waits": True}})
    two = {"pipeline_parallel": 2, "recompute_layers_per_stage": (1, 0)}
    assert host_seconds(waits, stages(**two)).tolist() == pytest.approx([2 * 0.8 * LAYER_S] * 2)
    assert host_seconds(waits, stages()).tolist() == [0.0]
    ahead = problem(num_devices=2, stack={"traffic": traffic})
    assert host_seconds(ahead, stages(pipeline_parallel=2)).tolist() == [0.0, 0.0]
    # A host that takes longer for both passes hides what its forward takes longer.
    slow = {"layer_host_s": 4 * LAYER_S, "forward_host_share": 1 / 3, "forward_waits": True}
    assert host_seconds(problem(num_devices=2, stack={"traffic": slow}), stages(pipeline_parallel=2)).tolist() == (
        pytest.approx([2 * 9 * LAYER_S] * 2)
    )


def test_stage_times_of_a_host_that_is_not_ahead_in_forward_are_affine() -> None:
    traffic = {"layer_host_s": 0.9 * LAYER_S, "forward_host_share": 0.6, "forward_waits": True}
    asked = problem(num_devices=2, stack={"traffic": traffic})
    times = [
        total(stage_times(asked, stages(pipeline_parallel=2, layers_per_stage=(1 + more, 3 - more))).microbatch)
        for more in range(3)
    ]
    first, last = np.diff(np.array(times), axis=0).T
    assert first.tolist() == pytest.approx([first[0]] * 2)
    assert last.tolist() == pytest.approx([-first[0]] * 2)
    # What the forward of a layer takes the host longer than the device.
    assert first[0] == pytest.approx(3 * LAYER_S + 0.62 * LAYER_S)


def test_stage_times_hide_reductions_of_zero_where_the_stack_does() -> None:
    shared = {"data_parallel": 2, "num_microbatches": 4}
    hides, waits = (
        problem(num_devices=2, stack={"overlap": {"data_parallel": 1.0, "zero_hides": h}}) for h in (True, False)
    )
    plain, sharded = stages(**shared), stages(**shared, zero_stage=1)
    whole = data_parallel_seconds(waits, sharded).tolist()
    assert stage_times(waits, sharded).tail["data_parallel_communication"].tolist() == pytest.approx(whole)
    assert stage_times(hides, sharded).tail["data_parallel_communication"][0] < whole[0]
    without = (stage_times(asked, plain).tail["data_parallel_communication"].tolist() for asked in (hides, waits))
    assert next(without) == next(without)
