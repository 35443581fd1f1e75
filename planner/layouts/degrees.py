"""Degrees of parallelism: what divides a number, what makes a grid of tensor-parallel ranks, micro batches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import LayoutColumns, once_per_table
from planner.specs import StackSpec, TensorMode

GRID_MODES: tuple[TensorMode, ...] = ("2d", "2.5d", "3d")
"""Tensor modes whose ranks are a grid with equal edges; in 2.5D several of them, one behind the other."""


def divisors(number: int) -> list[int]:
    """The positive divisors of ``number``, rising."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


def grid_edge(mode: str, degree: Any, depth: Any = 1) -> Any:
    """Edge of the tensor-parallel grid: root of the degree (2D), of degree / depth (2.5D), cube root (3D).

    1 for other modes. Rounded to the nearest integer where the degree has no such root. Of numbers or arrays.
    """
    root = {"2d": np.sqrt, "2.5d": np.sqrt, "3d": np.cbrt}.get(mode)
    if root is None:
        return 1
    edge = np.maximum(1, np.rint(root(np.asarray(degree / depth if mode == "2.5d" else degree, dtype=np.float64))))
    return edge.astype(np.int64) if edge.ndim else int(edge)


def grid_ranks(mode: str, edge: Any, depth: Any = 1) -> Any:
    """Ranks of a grid: edge squared (2D), that times the depth (2.5D), edge cubed (3D). Of numbers or arrays."""
    return {"2d": edge**2, "2.5d": depth * edge**2, "3d": edge**3}[mode]


def grid_batch_parts(mode: str, edge: Any, depth: Any = 1) -> Any:
    """Parts into which a grid divides a micro batch; 1 for other modes. Of numbers or arrays."""
    return {"2d": edge, "2.5d": depth * edge, "3d": edge**2}.get(mode, 1)


def expert_ranks(stack: StackSpec, tensor_parallel: Any, replicas: Any) -> Any:
    """Ranks of a stage that may hold different experts whole, or the same part of each. Of numbers or arrays."""
    return replicas * (1 if stack.experts.by_tensor else tensor_parallel)


@once_per_table
def edge_of(columns: LayoutColumns) -> NDArray[np.int64]:
    """:func:`grid_edge` of every layout."""
    edges = np.ones(len(columns), dtype=np.int64)
    for mode in GRID_MODES:
        here = columns.mode_is(mode)
        if here.any():
            edges = np.where(here, grid_edge(mode, columns.tensor_parallel, columns.tensor_depth), edges)
    return edges


def makes_grid(columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where the tensor-parallel ranks make the grid of their mode; true for other modes."""
    whole = np.ones(len(columns), dtype=bool)
    for mode in GRID_MODES:
        ranks = grid_ranks(mode, edge_of(columns), columns.tensor_depth)
        whole &= ~columns.mode_is(mode) | (ranks == columns.tensor_parallel)
    return whole


def micro_batches(stages: int, batch: int | None) -> int:
    """The least number of micro batches, from one a stage on, that divides a batch; best a multiple of the stages."""
    if batch is None:
        return stages
    fitting = [number for number in divisors(batch) if number >= stages]
    return next((number for number in fitting if number % stages == 0), fitting[0] if fitting else stages)
