"""Time of one product by hand: 5e11 FLOP/s is what the tiny device reaches along its curve."""

import msgspec
import numpy as np
import pytest

from planner.cost_model.products import (
    alignment_share,
    alone_seconds,
    matrix_seconds,
    odd_share,
    product_seconds,
    tile_seconds,
    traffic_seconds,
)
from planner.specs import TilesSpec
from planner.specs.units import Seconds
from tests.helpers import problem

TILES = TilesSpec(multiprocessors=4, rate=0.5, start_s=Seconds(1e-6), shapes=((4, 4, 1.0), (2, 2, 0.5)))
"""Four multiprocessors with 1.25e11 FLOP/s each in tiles of 4 x 4, and half of that in tiles of 2 x 2."""


def tiled(rows: float, columns: float, depth: float, batch: float = 1.0) -> float:
    """Time of a product on the tiny device with those tiles."""
    return float(matrix_seconds(problem(hardware={"efficiency": {"tiles": TILES}}), rows, columns, depth, batch))


def test_traffic_seconds_by_hand() -> None:
    assert traffic_seconds(problem(), np.array([0.0, 1000.0])).tolist() == [0.0, pytest.approx(2e-6)]


def test_matrix_seconds_by_hand() -> None:
    # Four tiles of 4 x 4 are one wave of 2 * 16 * 10 FLOP on each multiprocessor; the fifth takes another.
    assert tiled(8, 8, 10) == pytest.approx(1e-6 + 320 / 1.25e11)
    assert tiled(8, 9, 10) == pytest.approx(1e-6 + 2 * 320 / 1.25e11)
    assert tiled(8, 8, 0) == 0.0


def test_matrix_seconds_take_the_tiles_that_end_first() -> None:
    # One tile of 4 x 4, or a wave of four of 2 x 2 that take a fourth of its FLOP at half of its rate.
    assert tiled(4, 4, 10) == pytest.approx(1e-6 + 80 / 0.625e11)


def test_matrix_seconds_of_several_products_fill_waves_together() -> None:
    assert tiled(4, 4, 10, batch=4) == pytest.approx(1e-6 + 320 / 1.25e11)


def test_matrix_seconds_without_tiles_are_those_of_the_curve() -> None:
    one = matrix_seconds(problem(), 4.0, 5.0, 6.0, 2.0)
    assert one.tolist() == pytest.approx(product_seconds(problem(), np.array(480.0)).tolist())


ONE_TILE = msgspec.structs.replace(TILES, shapes=((4, 4, 1.0),))


def test_tile_seconds_by_hand() -> None:
    # Five tiles on four multiprocessors: two waves, or with a tail of 0.2 a wave and 0.25 and a fifth of the rest.
    one = 2.0 * 4 * 16 * 10 / (1e12 * 0.5)
    sides = (np.array(4.0), np.array(20.0), np.array(10.0))
    assert tile_seconds(ONE_TILE, 1e12, sides) == pytest.approx(1e-6 + 2 * one)
    tail = msgspec.structs.replace(ONE_TILE, tail=0.2)
    assert tile_seconds(tail, 1e12, sides) == pytest.approx(1e-6 + (0.2 * 2 + 0.8 * 1.25) * one)
    # The pipeline of a tile is filled and emptied for as long as 5 more of depth take.
    filled = msgspec.structs.replace(ONE_TILE, fill=5.0)
    assert tile_seconds(filled, 1e12, sides) == pytest.approx(1e-6 + 2 * one * 15 / 10)


def test_tile_seconds_of_less_than_a_wave_are_divided_along_the_depth() -> None:
    # One tile of four multiprocessors: all of a wave, half of one, or its fourth.
    sides, wave = (np.array(4.0), np.array(4.0), np.array(10.0)), 2.0 * 4 * 16 * 10 / (1e12 * 0.5)
    for split, part in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.25)):
        tiles = msgspec.structs.replace(ONE_TILE, split=split)
        assert tile_seconds(tiles, 1e12, sides) == pytest.approx(1e-6 + part * wave)


def test_alone_seconds_of_long_products_have_a_lower_clock() -> None:
    tiles = msgspec.structs.replace(ONE_TILE, droop=0.1)
    for depth, slower in ((1e8, 1.0), (3.125e9, 1.0), (3.125e10, 1.1), (3.125e11, 1.2), (3.125e13, 1.2)):
        sides = (np.array(4.0), np.array(4.0), np.array(depth))
        assert alone_seconds(tiles, 1e12, sides) / tile_seconds(tiles, 1e12, sides) == pytest.approx(slower)


def test_product_seconds_by_hand() -> None:
    assert product_seconds(problem(), np.array([0.0, 1000.0])).tolist() == [0.0, pytest.approx(2e-9)]


def test_product_seconds_interpolate_over_the_logarithm_and_stay_constant_beyond() -> None:
    curve = {"efficiency": {"matmul": ((10.0, 0.1), (1000.0, 0.3))}}
    seconds = product_seconds(problem(hardware=curve), np.array([1.0, 10.0, 100.0, 1000.0, 1e6]))
    assert seconds.tolist() == pytest.approx([1e-11, 1e-10, 5e-10, 1e-8 / 3, 1e-5 / 3])


def test_alignment_share_by_hand() -> None:
    blocks = problem(hardware={"efficiency": {"alignment": 64, "unaligned": 0.5}})
    assert alignment_share(blocks, np.array([64.0, 1800.0, 1792.0])).tolist() == [1.0, 0.5, 1.0]
    assert alignment_share(problem(), np.array([1.0, 7.0])).tolist() == [1.0, 1.0]


def test_odd_share_by_hand() -> None:
    vectors = problem(hardware={"efficiency": {"odd": 0.25}})
    assert odd_share(vectors, np.array([50257.0, 50264.0])).tolist() == [0.25, 1.0]
    assert odd_share(problem(), np.array([50257.0])).tolist() == [1.0]
