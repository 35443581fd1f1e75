"""Time of one matrix product, by its FLOP along a curve or by its tiles where the card's are known, and of traffic."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats
from planner.specs import TilesSpec

Side = Floats | float
"""A side of a matrix, of one product or of one for each row."""
BACKWARD_PRODUCTS = 2.0
"""Backward computes a weight and an input gradient for every product of forward."""
VECTOR_ELEMENTS = 8
"""Two-byte elements of an aligned vector of 16 bytes."""
DROOP_FLOPS, DROOP_DECADES = 1e11, 2.0
"""Products from this size on heat the card, up to so many factors of ten."""


class Passes(NamedTuple):
    """What a part of a layer takes for one micro batch. Units: s."""

    forward: Floats
    backward: Floats


@formula("definition")
def traffic_seconds(problem: Problem, num_bytes: Floats) -> Floats:
    """Time of memory-bound work: bytes over the share of the memory bandwidth that it reaches."""
    hardware = problem.hardware
    return num_bytes / (hardware.memory_bandwidth_bytes_per_s * hardware.efficiency.memory)


@formula("definition")
def product_seconds(problem: Problem, flops: Floats) -> Floats:
    """Time of one matrix product: FLOP over dense peak times the efficiency measured at that size.

    The efficiency is interpolated between the points of the hardware spec over log FLOP and held
    constant beyond them. Zero FLOP take no time. Units: s.
    """
    points = np.array(problem.hardware.efficiency.matmul)
    size = np.log10(np.maximum(flops, 1.0))
    efficiency = np.interp(size, np.log10(points[:, 0]), points[:, 1])
    return flops / (problem.hardware.peak_flops_per_s[problem.precision] * efficiency)


@formula("nvidia-matmul")
def matrix_seconds(problem: Problem, rows: Side, columns: Side, depth: Side, batch: Floats | float = 1.0) -> Floats:
    """Time of ``batch`` products of ``rows x depth`` by ``depth x columns`` at once, at the full clock.

    By tiles, :func:`tile_seconds`, or along the curve where the card has none. Units: s.
    """
    tiles = problem.hardware.efficiency.tiles
    if tiles is None:
        return product_seconds(problem, np.asarray(2.0 * batch * rows * columns * depth))
    return tile_seconds(tiles, problem.hardware.peak_flops_per_s[problem.precision], (rows, columns, depth), batch)


@formula("nvidia-matmul")
def tile_seconds(
    tiles: TilesSpec, peak_flops_per_s: float, sides: tuple[Side, Side, Side], batch: Floats | float = 1.0
) -> Floats:
    """Time of ``batch`` products of ``(rows, columns, depth)`` at once, which are cut into tiles, at the full clock.

    The multiprocessors compute the tiles of the result wave after wave; a last wave takes as long as a full one,
    or the spec's share of that; less than one wave is divided along the depth as far as the spec says. Each tile
    fills and empties a pipeline. Of the card's tiles the one that ends first is taken. Units: s.
    """
    rows, columns, depth = sides
    flops = np.asarray(2.0 * batch * rows * columns * depth)
    best = np.full(flops.shape, np.inf)
    for high, wide, share in tiles.shapes:
        waves = batch * np.ceil(rows / high) * np.ceil(columns / wide) / tiles.multiprocessors
        whole = tiles.tail * np.ceil(waves) + (1.0 - tiles.tail) * waves
        taken = np.where(waves < 1.0, waves**tiles.split, whole)
        best = np.minimum(best, taken * (high * wide / share))
    work = 2.0 * tiles.multiprocessors * (depth + tiles.fill) / (peak_flops_per_s * tiles.rate)
    return np.where(flops > 0, best * work + tiles.start_s, 0.0)


@formula("nvidia-matmul")
def alone_seconds(tiles: TilesSpec, peak_flops_per_s: float, sides: tuple[Side, Side, Side]) -> Floats:
    """Time of one product that is run a few times by itself, as benchmarks of kernels do. Units: s.

    :func:`tile_seconds`, and longer by ``droop`` for each factor of ten from 1e11 to 1e13 FLOP: the runs of a longer
    product heat the card for longer.
    """
    rows, columns, depth = sides
    flops = np.asarray(2.0 * rows * columns * depth)
    decades = np.log10(np.maximum(flops, DROOP_FLOPS)) - np.log10(DROOP_FLOPS)
    return tile_seconds(tiles, peak_flops_per_s, sides) * (1.0 + tiles.droop * np.minimum(decades, DROOP_DECADES))


class Products(NamedTuple):
    """A product and the two of its backward, in seconds."""

    output: Floats
    of_input: Floats
    of_weight: Floats

    @property
    def passes(self) -> Passes:
        """Forward and backward."""
        return Passes(self.output, self.of_input + self.of_weight)


def with_gradients(seconds: Callable[[Side, Side, Side], Floats], rows: Side, inner: Side, outer: Side) -> Products:
    """A product of ``rows x inner`` by ``inner x outer``, and the two that its input and its weight have in backward.

    ``seconds`` tells what one of ``rows x depth`` by ``depth x columns`` takes, as ``seconds(rows, columns, depth)``.
    """
    sides = ((rows, outer, inner), (rows, inner, outer), (inner, outer, rows))
    return Products(*(seconds(*each) for each in sides))


@formula("definition")
def alignment_share(problem: Problem, side: Floats) -> Floats:
    """Share of its efficiency that a product keeps whose side is no multiple of what the card works on."""
    efficiency = problem.hardware.efficiency
    aligned = np.mod(np.broadcast_to(side, np.shape(side)), float(efficiency.alignment)) == 0
    return np.where(aligned, 1.0, efficiency.unaligned)


@formula("definition")
def odd_share(problem: Problem, side: Floats) -> Floats:
    """Share of its efficiency that a product keeps whose side is no multiple of an aligned vector."""
    even = np.mod(np.broadcast_to(side, np.shape(side)), VECTOR_ELEMENTS) == 0
    return np.where(even, 1.0, problem.hardware.efficiency.odd)
