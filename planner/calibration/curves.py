"""Fits of what was measured: the efficiency curve of matrix products, latency and bandwidth of a link."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.handover.measurements import Collective, Product
from planner.specs import Precision

BINS_PER_DECADE = 2
"""Points of the curve for each factor of ten in FLOP."""
LEAST_SHARE = 1e-4
LEAST_TIMINGS = 2
"""A line has two points."""
NO_LATENCY_S = 1e-8
"""Taken where the fit finds none: a spec's link needs no time of its own then."""


def best_rate(products: Sequence[Product], precision: Precision) -> float | None:
    """The highest rate of any product of a precision in FLOP/s; ``None`` where none was measured."""
    return max((one.flops_per_s for one in products if one.precision == precision), default=None)


def efficiency_curve(products: Sequence[Product], peak_flops_per_s: float) -> tuple[tuple[float, float], ...]:
    """Points ``[FLOP, share of the peak]``: products in bins over log FLOP, the median share of each bin.

    FLOP of a point is the geometric mean of its bin. Raises ``ValueError`` without any product.
    """
    if not products:
        raise ValueError("no products")
    bins: dict[int, list[Product]] = {}
    for one in products:
        bins.setdefault(math.floor(BINS_PER_DECADE * math.log10(one.flops)), []).append(one)
    points = []
    for _, members in sorted(bins.items()):
        flops = statistics.geometric_mean(one.flops for one in members)
        share = statistics.median(one.flops_per_s / peak_flops_per_s for one in members)
        points.append((float(f"{flops:.3g}"), round(min(1.0, max(LEAST_SHARE, share)), 4)))
    return tuple(points)


class Link(NamedTuple):
    """What a ring over a link reaches."""

    bandwidth_bytes_per_s: float
    latency_s: float
    error: float
    """Mean absolute relative error of the fit over the collectives it was made of."""


def fit_link(collectives: Sequence[Collective]) -> Link:
    """Bandwidth and latency by least squares of relative errors, neither below zero.

    A collective takes ``steps ((n-1)/n bytes / bandwidth + (n-1) latency)`` with 2 steps for an all-reduce
    and 1 for an all-gather, as :func:`planner.cost_model.rings.ring_seconds` has it; a send takes
    ``bytes / bandwidth + latency``. Raises ``ValueError`` with fewer than two collectives.
    """
    if len(collectives) < LEAST_TIMINGS:
        raise ValueError("a link needs two collectives or more")
    work = np.array([_work(one) for one in collectives])
    seconds = np.array([one.seconds for one in collectives])
    relative = work / seconds[:, None]
    inverse_bandwidth, latency = _non_negative(relative)
    error = float(np.abs(work @ (inverse_bandwidth, latency) / seconds - 1.0).mean())
    return Link(1.0 / inverse_bandwidth, max(latency, NO_LATENCY_S), error)


def _work(one: Collective) -> tuple[float, float]:
    """Bytes through each member's link, and messages one after another."""
    if one.kind == "send":
        return float(one.num_bytes), 1.0
    steps = 2.0 if one.kind == "all-reduce" else 1.0
    return steps * (one.size - 1) / one.size * one.num_bytes, steps * (one.size - 1)


def _non_negative(relative: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[float, float]:
    """Least squares of ``relative @ x = 1`` with ``x >= 0`` and a bandwidth that is finite."""
    ones = np.ones(len(relative))
    (inverse_bandwidth, latency), *_ = np.linalg.lstsq(relative, ones, rcond=None)
    if inverse_bandwidth <= 0:  # nothing large was measured: all of the largest is taken for its bytes
        inverse_bandwidth = 1.0 / relative[:, 0].max()
        latency = 0.0
    elif latency < 0:
        column = relative[:, 0]
        inverse_bandwidth, latency = column.sum() / (column @ column), 0.0
    return float(inverse_bandwidth), float(latency)
