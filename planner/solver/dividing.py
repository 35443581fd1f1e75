"""The exact division of one layout's layers by dynamic programming, for models that take CP-SAT long.

The step is ``fixed + M max t_s + (sum t_s - max t_s) / v + max tail``. With the two maxima bounded it is a sum, of
which the least is found stage after stage; the bounds that can lead to a better step than the best one known are
tried in turn.
"""

from typing import NamedTuple

import numpy as np

from planner.layouts.stages import Floats, Integers
from planner.solver.tables import Affine, TimeTables


class Divided(NamedTuple):
    """The best division of a layout, in ticks."""

    step: float
    layers: tuple[int, ...]


class _Options(NamedTuple):
    """What one stage may hold: layers, the time of a micro batch and the tail with them."""

    layers: Integers
    times: Integers
    tails: Integers


def best_division(tables: TimeTables, row: int, below: float) -> Divided | None:
    """The division of the least step of one layout, if there is one of at most ``below``."""
    options = [_options(tables, stage) for stage in _stages(tables, row)]
    count, chunks = int(tables.num_microbatches[row]), int(tables.num_chunks[row])
    fixed, best = float(tables.fixed[row]), None
    least = sum(int(one.times.min()) for one in options)
    tail = min(max(int(one.tails.min()) for one in options), 2**62)
    for slowest in np.unique(np.concatenate([one.times for one in options])).tolist():
        outside = fixed + (count - 1.0 / chunks) * slowest
        if outside + least / chunks + tail > below:
            break
        for last in np.unique(np.concatenate([one.tails for one in options])).tolist():
            if outside + least / chunks + last > below:
                break
            found = _least_sum(options, tables.num_layers, slowest, last)
            if found is not None and (step := outside + found[0] / chunks + last) <= below:
                best, below = Divided(step, found[1]), step
    return best


def _stages(tables: TimeTables, row: int) -> range:
    start = int(tables.starts[row])
    return range(start, start + int(tables.num_stages[row]))


def _options(tables: TimeTables, stage: int) -> _Options:
    fewest, most = int(tables.limits.fewest[stage]), int(tables.limits.most[stage])
    layers, curve, tail = np.arange(fewest, most + 1), tables.microbatch, tables.tail
    if isinstance(curve, Affine):
        times = curve.base[stage] + curve.slope[stage] * layers
    else:
        times = curve.of_stage(stage)[layers - int(curve.fewest[stage])]
    return _Options(layers, times, tail.base[stage] + tail.slope[stage] * layers)


def _least_sum(
    options: list[_Options], num_layers: int, slowest: int, last: int
) -> tuple[float, tuple[int, ...]] | None:
    """The least sum of stage times with each at most ``slowest`` and each tail at most ``last``, and its layers."""
    sums: Floats = np.full(num_layers + 1, np.inf)
    sums[0] = 0.0
    chosen = np.zeros((len(options), num_layers + 1), dtype=np.int64)
    for stage, one in enumerate(options):
        longer = np.full(num_layers + 1, np.inf)
        for layers, time in zip(one.layers, one.times, strict=True):
            if time > slowest or one.tails[layers - one.layers[0]] > last:
                continue
            with_it = sums[: num_layers + 1 - layers] + time
            better = with_it < longer[layers:]
            longer[layers:][better] = with_it[better]
            chosen[stage, layers:][better] = layers
        sums = longer
    if not np.isfinite(sums[num_layers]):
        return None
    dealt, left = [], num_layers
    for stage in reversed(range(len(options))):
        dealt.append(int(chosen[stage, left]))
        left -= dealt[-1]
    return float(sums[num_layers]), tuple(reversed(dealt))
