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
SCALE_SHARE = 0.75
"""The scale of a class is what this share of its errors does not exceed, each group counting as much as another.

The guarantee holds with any. With 0.7, 0.75, 0.8 and 0.9, of the sets that are left out 8 of 9 hold at least 85 % of
their memory readings each time, and 14, 15, 15 and 13 of 18 of their step times. With 0.7 and 0.75 it is a set of five
readings that does not, with 0.8 one of ninety.
"""
ENOUGH_TABLES = 3
"""A class in which fewer tables were measured is measured together with the next wider ones."""
UNMEASURED_WIDER = 1.5
"""How much wider a class is in which nothing was measured than the nearest that was: an estimate, no measurement.

The playbook's runs, left out, are the only ones that can tell: with 1, 1.5 and 2 they hold 76, 87 and 92 % of their
memory readings at a share of 0.8 and 81, 85 and 88 % of their step times.
"""
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
    again: bool = False
    """Whether these are further readings of runs of another group, which bear on scales alone."""


@dataclass(frozen=True)
class Calibration:
    """Groups of errors, and the scale of every class."""

    groups: tuple[Group, ...]
    scales: Mapping[Cell, float]

    @property
    def most(self) -> float:
        """The largest probability that so many groups can show: ``K / (K + 1)``."""
        return self.count / (self.count + 1)

    @cached_property
    def count(self) -> int:
        """Groups that bear on the quantiles."""
        return sum(not one.again for one in self.groups)

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
        own = [one for one in self.groups if not one.again]
        scaled = [sign * error / self.scales[one.cell] for one in own for error in one.errors]
        weights = [1.0 / len(one.errors) / (len(own) + 1) for one in own for _ in one.errors]
        order = np.argsort(scaled, kind="stable")
        return np.array(scaled)[order], np.cumsum(np.array(weights)[order])


def calibrated(groups: Iterable[Group], columns: int, steps: int) -> Calibration:
    """Groups with the scales of ``columns x steps`` classes, which never fall from a class to a wider one.

    A class without :data:`ENOUGH_TABLES` is measured together with the next wider ones of its column, or, where there
    is none with enough, with the next nearer ones. It is then as wide as most of their tables are by themselves, and
    :data:`UNMEASURED_WIDER` where nothing was measured in it.
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
    """What most errors of a class do not exceed; without enough tables of its own, what those of most tables do not."""
    spans = [range(step, end + 1) for end in range(step, steps)] + [range(start, steps) for start in range(step)][::-1]
    found: list[Group] = []
    for span in spans:
        found = [one for one in groups if one.cell[0] == column and one.cell[1] in span]
        if len({one.table for one in found}) >= ENOUGH_TABLES:
            break
    if len({one.table for one in found if one.cell[1] == step}) >= ENOUGH_TABLES:
        return _most(found)
    wider = 1.0 if any(one.cell[1] == step for one in found) else UNMEASURED_WIDER
    own = [_most([one for one in found if one.table == table]) for table in {one.table for one in found}]
    return wider * max(_most(found), _quantile([(size, 1.0) for size in own]))


def _most(groups: Sequence[Group]) -> float:
    """The size that :data:`SCALE_SHARE` of the errors of groups that weigh alike do not exceed."""
    return _quantile([(abs(error), 1.0 / len(one.errors)) for one in groups for error in one.errors])


def _quantile(weighted: Iterable[tuple[float, float]]) -> float:
    sizes = sorted(weighted)
    weights = np.cumsum([weight for _, weight in sizes])
    return sizes[int(np.searchsorted(weights, SCALE_SHARE * weights[-1] - ROUNDING))][0] if sizes else 0.0
