"""How a device cuts matrix products into tiles, fitted to products that were measured by themselves."""

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from planner.calibration.least_squares import Vector, minimise
from planner.cost_model.products import DROOP_FLOPS, alone_seconds
from planner.handover.measurements import Product
from planner.specs import TilesSpec
from planner.specs.units import Seconds

LEAST_PRODUCTS = 100
"""Products below which a dozen numbers could not be told from noise."""
LONG_FLOPS = 1e12
"""Products from this size on run for a millisecond and more, each."""
FULL = 0.75
"""Share of the products that are slower than those with full waves."""
HELD_OUT = 4
"""One shape of so many is held out of the fit and judges it."""
SHAPES = ((256, 128), (128, 256), (128, 128), (256, 64), (64, 256), (128, 64), (64, 128), (64, 64))
"""Rows and columns of the tiles that matrix libraries choose from."""
SHARES = (1.0, 1.0, 0.92, 0.85, 0.85, 0.78, 0.78, 0.62)
"""What smaller tiles are thought to reach where no product tells: each number of a tile is used for more products
in a larger one."""
PULL, SPREAD = 4.0, 0.1
"""Residual of a tile's share that has moved by all of its range; error beyond which a product weighs less, since some
shapes get a badly chosen kernel."""


class _Bound(NamedTuple):
    field: str
    low: float
    high: float


_BOUNDS = (
    _Bound("rate", 0.3, 1.0),
    _Bound("start_s", 0.5e-6, 20e-6),
    _Bound("fill", 0.0, 512.0),
    _Bound("tail", 0.0, 1.0),
    _Bound("split", 0.0, 1.0),
)
"""What is physically sensible of each number."""
_DROOP = _Bound("droop", 0.0, 0.2)
_SHARE = _Bound("shapes", 0.4, 1.0)


class TileFit(NamedTuple):
    """Tiles, and what they predict of shapes that they were not fitted to."""

    tiles: TilesSpec
    error: float
    """Mean absolute relative error of the products held out."""
    worst: float
    """Their 95th percentile."""
    fitted: int
    """Products that the numbers were fitted to."""
    held_out: int
    """Products that judged them."""


def fit_tiles(products: Sequence[Product], multiprocessors: int, peak_flops_per_s: float) -> TileFit:
    """Tiles of a device with so many multiprocessors by least squares over logarithms of times.

    Times of one shape are first averaged. A quarter of the shapes, chosen by a checksum, is held out. The clock falls
    only where long products are slower than shorter ones: elsewhere it would stand for what tiles do not tell.

    Raises:
        ValueError: too few products.
    """
    sides, seconds = _shapes(products)
    if len(sides) < LEAST_PRODUCTS:
        raise ValueError(f"tiles need {LEAST_PRODUCTS} shapes of products or more, and there are {len(sides)}")
    bounds = (*_BOUNDS, _DROOP) if _falls(sides, seconds) else _BOUNDS
    start = _start(bounds)
    held = np.array([zlib.crc32(str(tuple(shape)).encode()) % HELD_OUT == 0 for shape in sides.tolist()])

    def residuals(at: Vector) -> Vector:
        tiles = _tiles(at, bounds, multiprocessors)
        errors = np.log(_seconds(tiles, peak_flops_per_s, sides[~held]) / seconds[~held])
        robust = SPREAD * np.sign(errors) * np.sqrt(2.0 * (np.sqrt(1.0 + (errors / SPREAD) ** 2) - 1.0))
        return np.concatenate([robust, PULL * (at[len(bounds) :] - start[len(bounds) :])])

    tiles = _rounded(_tiles(minimise(residuals, start), bounds, multiprocessors))
    errors = np.abs(_seconds(tiles, peak_flops_per_s, sides[held]) / seconds[held] - 1.0)
    return TileFit(tiles, float(errors.mean()), float(np.percentile(errors, 95)), int((~held).sum()), int(held.sum()))


def _shapes(products: Sequence[Product]) -> tuple[NDArray[np.float64], Vector]:
    """Sides ``[shapes, 3]`` as m, n, k, and the geometric mean of each shape's times."""
    times: dict[tuple[int, int, int], list[float]] = {}
    for one in products:
        times.setdefault((one.m, one.n, one.k), []).append(one.seconds)
    means = [float(np.exp(np.log(found).mean())) for found in times.values()]
    return np.array(list(times), dtype=np.float64).reshape(-1, 3), np.array(means)


def _falls(sides: NDArray[np.float64], seconds: Vector) -> bool:
    """Whether products of more than 1e12 FLOP reach a lower rate than those of 1e11 to 1e12, by their upper quartiles.

    Above these few tiles are part of a wave, so that the shapes differ little by anything but their length.
    """
    flops = 2.0 * sides.prod(axis=1)
    rates = flops / seconds
    shorter, longer = rates[(flops >= DROOP_FLOPS) & (flops < LONG_FLOPS)], rates[flops >= LONG_FLOPS]
    return min(len(shorter), len(longer)) > 0 and bool(np.quantile(longer, FULL) < np.quantile(shorter, FULL))


def _start(bounds: Sequence[_Bound]) -> Vector:
    of = {"rate": 0.9, "start_s": 4e-6, "fill": 128.0, "tail": 0.5, "split": 0.3, "droop": 0.05}
    numbers = [(of[one.field] - one.low) / (one.high - one.low) for one in bounds]
    return np.array(numbers + [(share - _SHARE.low) / (_SHARE.high - _SHARE.low) for share in SHARES])


def _tiles(at: Vector, bounds: Sequence[_Bound], multiprocessors: int) -> TilesSpec:
    of: dict[str, Any] = {
        one.field: one.low + float(x) * (one.high - one.low) for one, x in zip(bounds, at, strict=False)
    }
    shares = _SHARE.low + at[len(bounds) :] * (_SHARE.high - _SHARE.low)
    shapes = tuple((*shape, float(share)) for shape, share in zip(SHAPES, shares, strict=True))
    return TilesSpec(multiprocessors=multiprocessors, shapes=shapes, **(of | {"start_s": Seconds(of["start_s"])}))


def _seconds(tiles: TilesSpec, peak_flops_per_s: float, sides: NDArray[np.float64]) -> Vector:
    m, n, k = sides.T
    return alone_seconds(tiles, peak_flops_per_s, (m, n, k))


def _rounded(tiles: TilesSpec) -> TilesSpec:
    """Three digits of each number, which is what the fit can tell."""
    rounded: TilesSpec = msgspec.structs.replace(
        tiles,
        start_s=Seconds(float(f"{tiles.start_s:.3g}")),
        shapes=tuple((high, wide, round(share, 3)) for high, wide, share in tiles.shapes),
        **{name: float(f"{getattr(tiles, name):.3g}") for name in ("rate", "fill", "tail", "split", "droop")},
    )
    return rounded
