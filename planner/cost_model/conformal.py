"""Bounds on an error that was never seen, from errors that were: conformal prediction over groups of runs.

Errors of one group hang together, those of different groups do not. Where a new group is drawn as the known ones
were, the next of its errors is no more than :meth:`Calibration.bound` with at least the probability that is asked
for, whatever the errors are distributed like. Classes of questions have errors of different size: each is divided by
the scale of its class before it is compared, and multiplied by that of the class that is asked about.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.stages import Floats

LEAST_SCALE = 0.005
"""Errors below half a percent are taken for luck."""
SCALE_SHARE = 0.8
"""The scale of a class is what this share of its errors does not exceed, each group counting as much as another.

The guarantee holds with any. With 0.6, 0.8 and 0.9 sets that are left out hold 91, 91 and 85 % of their memory readings
on average, and 91 % of their step times each; 0.8 has the widest room for memory of stacks that were measured.
"""
ENOUGH_TABLES = 3
"""A class in which fewer tables were measured has no scale of its own: it has that of the next wider one."""
ROUNDING = 1e-12

Cell = tuple[int, int]
"""A class: its column, and how far it is from what was measured; scales rise in both."""


class Group(NamedTuple):
    """Errors that hang together."""

    table: str
    name: Hashable
    cell: Cell
    errors: Sequence[float]
    """``log(measured / predicted)`` of each run; above 0 where the prediction was too low."""


@dataclass(frozen=True)
class Calibration:
    """Groups of errors, and the scale of every class."""

    groups: tuple[Group, ...]
    scales: Mapping[Cell, float]

    @property
    def most(self) -> float:
        """The largest probability that so many groups can show: ``K / (K + 1)``."""
        return len(self.groups) / (len(self.groups) + 1)

    @formula("lee2023")
    def bound(self, cell: Cell, probability: float, *, upper: bool = True) -> float:
        """What an error of a class does not exceed, or not fall below, with at least that probability.

        The quantile of ``sum_k 1 / (K + 1) sum_i 1 / n_k delta(e_ki / scale) + 1 / (K + 1) delta(infinity)`` over the
        ``K`` groups, times the scale of the class. Infinite where the probability is more than :attr:`most`.
        """
        errors, weights = self._ranked if upper else self._ranked_below
        place = int(np.searchsorted(weights, probability - ROUNDING))
        size = float(errors[place]) * self.scales[cell] if place < len(errors) else math.inf
        return size if upper else -size

    def probability(self, cell: Cell, error: float) -> float:
        """With which probability, at least, an error of a class is no more than ``error``; the inverse of a bound."""
        errors, weights = self._ranked
        place = int(np.searchsorted(errors, error / self.scales[cell] + ROUNDING, side="right"))
        return float(weights[place - 1]) if place else 0.0

    @cached_property
    def _ranked(self) -> tuple[Floats, Floats]:
        return self._sorted(1.0)

    @cached_property
    def _ranked_below(self) -> tuple[Floats, Floats]:
        return self._sorted(-1.0)

    def _sorted(self, sign: float) -> tuple[Floats, Floats]:
        """Scaled errors from the least on, and the weight of each and all before it."""
        scaled = [sign * error / self.scales[one.cell] for one in self.groups for error in one.errors]
        weights = [1.0 / len(one.errors) / (len(self.groups) + 1) for one in self.groups for _ in one.errors]
        order = np.argsort(scaled, kind="stable")
        return np.array(scaled)[order], np.cumsum(np.array(weights)[order])


def calibrated(groups: Iterable[Group], columns: int, steps: int) -> Calibration:
    """Groups with the scales of ``columns x steps`` classes, which never fall from a class to a wider one.

    A class without :data:`ENOUGH_TABLES` is measured together with the next wider ones of its column, or, where there
    is none with enough, with the next nearer ones.
    """
    known = tuple(groups)
    scales: dict[Cell, float] = {}
    for column in range(columns):
        for step in range(steps):
            own = _scale(known, column, step, steps)
            nearer = [scales[at] for at in scales if at[0] <= column and at[1] <= step]
            scales[column, step] = max([own, LEAST_SCALE, *nearer])
    return Calibration(known, scales)


def _scale(groups: Sequence[Group], column: int, step: int, steps: int) -> float:
    spans = [range(step, end + 1) for end in range(step, steps)] + [range(start, steps) for start in range(step)][::-1]
    found: list[Group] = []
    for span in spans:
        found = [one for one in groups if one.cell[0] == column and one.cell[1] in span]
        if len({one.table for one in found}) >= ENOUGH_TABLES:
            break
    sizes = [(abs(error), 1.0 / len(one.errors)) for one in found for error in one.errors]
    sizes.sort()
    weights = np.cumsum([weight for _, weight in sizes])
    return sizes[int(np.searchsorted(weights, SCALE_SHARE * weights[-1] - ROUNDING))][0] if sizes else 0.0
