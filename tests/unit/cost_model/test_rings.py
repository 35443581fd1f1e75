"""Ring collectives by hand."""

import numpy as np

from planner.cost_model.rings import ring_seconds


def ring(size: int, steps: float) -> float:
    """A ring over ``size`` ranks with 1000 bytes, 1000 B/s and half a second a message."""
    seconds = ring_seconds(np.array([1000.0]), np.array([size]), steps, np.array([1000.0]), np.array([0.5]))
    return float(seconds[0])


def test_ring_seconds_by_hand() -> None:
    assert ring(4, 2.0) == 2 * (750 / 1000 + 3 * 0.5) == 4.5
    assert ring(4, 1.0) == 2.25


def test_ring_seconds_of_one_rank_are_zero() -> None:
    assert ring(1, 2.0) == 0.0
