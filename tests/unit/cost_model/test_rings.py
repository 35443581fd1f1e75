"""Ring collectives by hand."""

import numpy as np

from planner.cost_model.rings import axis_strides, ring_seconds
from tests.helpers import problem, stages


def ring(size: int, steps: float) -> float:
    """A ring over ``size`` ranks with 1000 bytes, 1000 B/s and half a second a message."""
    seconds = ring_seconds(np.array([1000.0]), np.array([size]), steps, np.array([1000.0]), np.array([0.5]))
    return float(seconds[0])


def test_ring_seconds_by_hand() -> None:
    assert ring(4, 2.0) == 2 * (750 / 1000 + 3 * 0.5) == 4.5
    assert ring(4, 1.0) == 2.25


def test_ring_seconds_of_one_rank_are_zero() -> None:
    assert ring(1, 2.0) == 0.0


def test_axis_strides_by_the_order_of_the_stack() -> None:
    cube = stages(tensor_parallel=2, pipeline_parallel=4, data_parallel=3)
    assert [stride[0] for stride in axis_strides(problem(), cube)] == [8, 2]
    assert [stride[0] for stride in axis_strides(problem(stack={"rank_order": "pipeline-data-tensor"}), cube)] == [2, 6]
