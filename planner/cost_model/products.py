"""Time of one matrix product: by its FLOP along a curve, or by its tiles where the device's are known."""

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats

Side = Floats | float
"""A side of a matrix, of one product or of one for each row."""
VECTOR_ELEMENTS = 8
"""Two-byte elements of an aligned vector of 16 bytes."""


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
    """Time of ``batch`` products of ``rows x depth`` by ``depth x columns`` at once.

    By tiles: the result is cut into tiles, which the multiprocessors compute wave after wave; a last wave takes
    as long as a full one. Of the card's tiles the one that ends first is taken. Without tiles the curve tells.
    Units: s.
    """
    tiles = problem.hardware.efficiency.tiles
    flops = np.asarray(2.0 * batch * rows * columns * depth)
    if tiles is None:
        return product_seconds(problem, flops)
    waves = [
        np.ceil(batch * np.ceil(rows / high) * np.ceil(columns / wide) / tiles.multiprocessors) * (high * wide / share)
        for high, wide, share in tiles.shapes
    ]
    rate = problem.hardware.peak_flops_per_s[problem.precision] * tiles.rate
    seconds = np.minimum.reduce(waves) * (2.0 * tiles.multiprocessors * depth / rate) + tiles.start_s
    return np.where(flops > 0, seconds, 0.0)


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
