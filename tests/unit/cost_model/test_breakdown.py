"""Named terms of a step, by hand."""

import numpy as np
import pytest

from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.grid_communication import grid_gradient_seconds
from planner.cost_model.pipeline import stage_times
from planner.cost_model.terms import total
from planner.cost_model.zero_bubble import v_seconds
from planner.layouts.layout import columns_of
from planner.layouts.stages import stages_of
from tests.helpers import layout, problem, stages
from tests.unit.cost_model.test_pipeline import EMBEDDING_S, HEAD_S, LAYER_S, SEND_S
from tests.unit.cost_model.test_zero_bubble import in_v


def test_step_breakdown_by_hand() -> None:
    breakdown = step_breakdown(problem(num_devices=2), stages(pipeline_parallel=2, layers_per_stage=(1, 3)))
    assert breakdown == pytest.approx(
        {
            "forward_backward": 8 * 9 * LAYER_S,
            "loss_head": 8 * HEAD_S,
            "pipeline_communication": 8 * SEND_S,
            "pipeline_bubble": 3 * LAYER_S + EMBEDDING_S + SEND_S,
            "optimizer": 11920 * 40 / 5e8,
            "tied_embedding_reduction": 2 * (2048 / 1e9 + 1e-6),
        }
    )


def test_step_breakdown_of_one_device_has_no_bubble_and_no_communication() -> None:
    breakdown = step_breakdown(problem(num_devices=1), stages())
    assert breakdown == pytest.approx(
        {
            "forward_backward": 8 * 12 * LAYER_S,
            "embedding": 8 * EMBEDDING_S,
            "loss_head": 8 * HEAD_S,
            "optimizer": 15328 * 40 / 5e8,
        }
    )


def test_step_breakdown_of_interleaved_chunks_divides_the_bubble() -> None:
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    breakdown = step_breakdown(problem(num_devices=2), chunked)
    first = 6 * LAYER_S + EMBEDDING_S + 4 * SEND_S
    assert breakdown["pipeline_bubble"] == pytest.approx(first / 2)


def test_step_breakdown_takes_one_layout() -> None:
    both = stages_of(columns_of(layout()).take(np.array([0, 0])))
    with pytest.raises(ValueError, match="exactly one layout"):
        step_breakdown(problem(), both)


def test_step_breakdown_under_zero_3_gathers_weights_with_every_micro_batch() -> None:
    sharded = stages(data_parallel=2, zero_stage=3)
    breakdown = step_breakdown(problem(num_devices=2), sharded)
    # Two gathers and a scatter of 15328 parameters of two bytes; 15328 / 3280 pieces.
    assert breakdown["weight_gathering"] == pytest.approx(8 * 3 * (15328 / 1e9 + 15328 / 3280 * 1e-6))
    assert "data_parallel_communication" not in breakdown
    hidden = problem(num_devices=2, stack={"overlap": {"sharded": 1.0}})
    assert "weight_gathering" not in step_breakdown(hidden, sharded)


def test_step_breakdown_of_a_grid_reduces_gradients_after_backward() -> None:
    grid = stages(tensor_mode="2d", tensor_parallel=4, data_parallel=2)
    asked = problem(num_devices=8)
    breakdown = step_breakdown(asked, grid)
    assert breakdown["data_parallel_communication"] == pytest.approx(float(grid_gradient_seconds(asked, grid)[0]))


def test_step_breakdown_of_a_v_is_its_schedule_and_the_tail() -> None:
    asked, columns = problem(num_devices=2), in_v()
    breakdown = step_breakdown(asked, columns)
    times = stage_times(asked, columns)
    assert sum(breakdown.values()) == pytest.approx(v_seconds(asked, columns)[0] + total(times.tail).max())
    assert "pipeline_communication" not in breakdown
    first = step_breakdown(asked, stages(pipeline_parallel=2))
    assert breakdown["pipeline_bubble"] < first["pipeline_bubble"] / 3
