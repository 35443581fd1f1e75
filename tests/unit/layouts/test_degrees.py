"""Divisors, grids of tensor-parallel ranks, micro batches."""

import pytest

from planner.layouts.degrees import (
    divisors,
    edge_of,
    grid_batch_parts,
    grid_edge,
    grid_ranks,
    makes_grid,
    micro_batches,
)
from planner.layouts.layout import columns_of
from planner.specs import TensorMode
from tests.helpers import layout


def test_divisors_rise() -> None:
    assert [divisors(number) for number in (1, 2, 12, 16)] == [[1], [1, 2], [1, 2, 3, 4, 6, 12], [1, 2, 4, 8, 16]]


@pytest.mark.parametrize(
    ("mode", "degree", "depth", "edge", "parts", "whole"),
    [
        ("none", 1, 1, 1, 1, True),
        ("1d", 6, 1, 1, 1, True),
        ("2d", 16, 1, 4, 4, True),
        ("2d", 8, 1, 3, 3, False),
        ("2.5d", 8, 2, 2, 4, True),
        ("2.5d", 12, 2, 2, 4, False),
        ("2.5d", 3, 3, 1, 3, True),
        ("3d", 27, 1, 3, 9, True),
        ("3d", 216, 1, 6, 36, True),
        ("3d", 9, 1, 2, 4, False),
        ("2d", 1, 1, 1, 1, True),
    ],
)
def test_grids(mode: TensorMode, degree: int, depth: int, edge: int, parts: int, whole: bool) -> None:
    columns = columns_of(layout(tensor_mode=mode, tensor_parallel=degree, tensor_depth=depth))
    assert grid_edge(mode, degree, depth) == edge
    assert edge_of(columns).tolist() == [edge]
    assert grid_batch_parts(mode, edge, depth) == parts
    assert makes_grid(columns).tolist() == [whole]


def test_ranks_of_a_grid() -> None:
    assert [grid_ranks("2d", 3), grid_ranks("2.5d", 3, 2), grid_ranks("3d", 3)] == [9, 18, 27]


@pytest.mark.parametrize(
    ("stages", "batch", "expected"), [(4, None, 4), (4, 8, 4), (3, 8, 4), (3, 12, 3), (4, 12, 4), (5, 4, 5), (2, 9, 3)]
)
def test_micro_batches_fill_the_stages_and_divide_the_batch(stages: int, batch: int | None, expected: int) -> None:
    assert micro_batches(stages, batch) == expected
