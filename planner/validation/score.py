"""Scores of predictions: errors in percent, fit and OOM, and how well layouts are ranked."""

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

NEAR_BEST_PCT = 3.0
"""A layout at most this much slower than the best one counts as best."""


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Relative errors of a quantity, in percent of what was measured; ``None`` where nothing was."""

    n: int
    mean_abs_pct: float | None
    max_abs_pct: float | None
    bias_pct: float | None
    """The mean with its sign: above 0 where predictions are too high."""


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """Measured outcome as predicted outcome, counted."""

    fit_as_fit: int
    fit_as_oom: int
    oom_as_fit: int
    oom_as_oom: int
    failed_as_fit: int = 0
    """``failed``: out of memory, a crash or a time limit, not told apart."""
    failed_as_oom: int = 0


class Ranking(msgspec.Struct, frozen=True, kw_only=True):
    """How predicted step times order the layouts of one model, batch and number of GPUs."""

    groups: int
    """Groups of at least two layouts with a measured step time."""
    kendall_tau: float | None
    """Tau-b, the mean over the groups weighted by their pairs of layouts."""
    top1_regret_pct: float | None
    """How much slower the layout predicted best is than the best one measured, mean over the groups."""
    top1_regret_max_pct: float | None
    top1_within_3_pct: float | None
    """Percent of the groups whose predicted best is within 3 % of the best."""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How many measured values lie within the interval of their prediction, which is made without their own set."""

    n: int
    held_pct: float | None
    """Percent of the values that lie within."""
    above_pct: float | None
    """Percent that lie above it: what was measured is more than the interval says."""


class Limits(NamedTuple):
    """Largest mean absolute errors of a set, in percent; ``None`` for no limit."""

    memory_pct: float | None = None
    time_pct: float | None = None


Pair = tuple[float, float]
"""Measured and predicted value of one row."""


def error_pct(measured: float, predicted: float) -> float:
    """``100 (predicted / measured - 1)``."""
    return 100.0 * (predicted / measured - 1.0)


def errors(pairs: Sequence[Pair]) -> Errors:
    """Mean, largest and signed mean relative error of pairs of a measured and a predicted value."""
    signed = [error_pct(measured, predicted) for measured, predicted in pairs]
    if not signed:
        return Errors(n=0, mean_abs_pct=None, max_abs_pct=None, bias_pct=None)
    sizes = [abs(error) for error in signed]
    return Errors(n=len(signed), mean_abs_pct=fmean(sizes), max_abs_pct=max(sizes), bias_pct=fmean(signed))


def coverage(found: Sequence[tuple[float, tuple[float, float]]]) -> Coverage:
    """Count measured values within and above their intervals."""
    if not found:
        return Coverage(n=0, held_pct=None, above_pct=None)
    held = fmean(low <= value <= high for value, (low, high) in found)
    above = fmean(value > high for value, (_, high) in found)
    return Coverage(n=len(found), held_pct=100.0 * held, above_pct=100.0 * above)


def outcomes(pairs: Iterable[tuple[str, str]]) -> Outcomes:
    """Count pairs of a measured and a predicted ``fit`` or ``oom``."""
    counts = Counter(f"{measured}_as_{predicted}" for measured, predicted in pairs)
    return Outcomes(**{name: counts[name] for name in Outcomes.__struct_fields__})


def kendall_tau(pairs: Sequence[Pair]) -> float | None:
    """Kendall's tau-b: ``(C - D) / sqrt((C + D + X) (C + D + Y))``.

    ``C`` and ``D`` count concordant and discordant pairs of rows, ``X`` those tied in the first value
    alone and ``Y`` those tied in the second alone. ``None`` where a value is the same in all rows.
    Source: M. G. Kendall, The treatment of ties in ranking problems, Biometrika 33(3), 1945.
    """
    balance = untied_first = untied_second = 0
    for (x1, y1), (x2, y2) in itertools.combinations(pairs, 2):
        first, second = (x1 > x2) - (x1 < x2), (y1 > y2) - (y1 < y2)
        balance += first * second
        untied_first += abs(first)
        untied_second += abs(second)
    if not untied_first or not untied_second:
        return None
    return float(balance / (untied_first * untied_second) ** 0.5)


def top1_regret_pct(pairs: Sequence[Pair]) -> float:
    """How much slower the row with the least predicted value is than the row with the least measured one."""
    chosen = min(pairs, key=lambda pair: pair[1])[0]
    return error_pct(min(measured for measured, _ in pairs), chosen)


def ranking(groups: Mapping[Hashable, Sequence[Pair]]) -> Ranking:
    """Score the groups that have at least two rows."""
    scored = [pairs for pairs in groups.values() if len(pairs) > 1]
    taus = [(tau, math.comb(len(pairs), 2)) for pairs in scored if (tau := kendall_tau(pairs)) is not None]
    regrets = [top1_regret_pct(pairs) for pairs in scored]
    within = [float(regret <= NEAR_BEST_PCT) for regret in regrets]
    return Ranking(
        groups=len(scored),
        kendall_tau=fmean(*zip(*taus, strict=True)) if taus else None,
        top1_regret_pct=fmean(regrets) if regrets else None,
        top1_regret_max_pct=max(regrets, default=None),
        top1_within_3_pct=100.0 * fmean(within) if within else None,
    )
