"""Degrees of parallelism: what divides a number, and the edge of a grid of tensor-parallel ranks."""

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import LayoutColumns, once_per_table


def divisors(number: int) -> list[int]:
    """The positive divisors of ``number``, rising."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


@once_per_table
def edge_of(columns: LayoutColumns) -> NDArray[np.int64]:
    """Edge of the tensor-parallel grid: root of the degree (2D), of degree / depth (2.5D), cube root (3D).

    1 for other modes. Rounded to the nearest integer where the degree has no such root.
    """
    if not columns.mode_is("2d", "2.5d", "3d").any():
        return np.ones(len(columns), dtype=np.int64)
    degree = columns.tensor_parallel.astype(np.float64)
    edge = np.ones(len(columns))
    edge = np.where(columns.mode_is("2d"), np.sqrt(degree), edge)
    edge = np.where(columns.mode_is("2.5d"), np.sqrt(degree / columns.tensor_depth), edge)
    edge = np.where(columns.mode_is("3d"), np.cbrt(degree), edge)
    return np.maximum(1, np.rint(edge)).astype(np.int64)
