"""Fitting layouts with a lower bound and a known solution each: the input of the exact model."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import Layout
from planner.layouts.stages import Floats, Integers
from planner.solver.limits import StageLimits
from planner.specs import Precision


class Division(NamedTuple):
    """How the stages of one layout divide its layers."""

    layers: Integers
    recompute: Integers
    """How many of them each stage recomputes."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Layouts, in the order of enumeration."""

    limits: StageLimits
    lower_bound: Floats
    """Objective that no division of a layout's layers beats."""
    achieved: Floats
    """Objective of the division in ``layers``."""
    layers: Integers
    """Layers of every stage, flattened."""
    recompute: Integers
    """How many of them every stage recomputes."""
    unit: float
    """One unit of the objective in base units: seconds of a tick, or 1 for bytes."""

    def __len__(self) -> int:
        """Number of layouts."""
        return len(self.achieved)

    def best_row(self) -> int:
        """The layout with the least achieved objective, the first one among equals."""
        return int(self.achieved.argmin())

    def rows_of(self, row: int) -> slice:
        """Rows of the stages of one layout."""
        start = int(self.limits.stages.first_rows()[row])
        return slice(start, start + int(self.limits.stages.layouts.pipeline_parallel[start]))

    def division(self, row: int) -> Division:
        """The known division of one layout."""
        rows = self.rows_of(row)
        return Division(self.layers[rows], self.recompute[rows])

    def layout(self, row: int, division: Division, precision: Precision) -> Layout:
        """One layout with a division of its layers."""
        layers, recompute = division.layers.tolist(), division.recompute.tolist()
        return self.limits.stages.layouts.layout(self.rows_of(row).start, layers, recompute, precision)

    def promising(self) -> NDArray[np.bool_]:
        """Which layouts can be at least as good as the best achieved objective."""
        return np.asarray(self.lower_bound <= self.achieved.min())

    def take(self, kept: NDArray[np.bool_]) -> "Ranked":
        """The layouts that a mask keeps."""
        rows = self.limits.stages.spread(kept)
        return Ranked(
            limits=self.limits.take_layouts(kept),
            lower_bound=self.lower_bound[kept],
            achieved=self.achieved[kept],
            layers=self.layers[rows],
            recompute=self.recompute[rows],
            unit=self.unit,
        )

    def improved(self, rows: NDArray[np.bool_], better: "Ranked") -> "Ranked":
        """The same layouts with what ``better`` knows of those that ``rows`` selects."""
        stages = self.limits.stages.spread(rows)
        names = {"lower_bound": rows, "achieved": rows, "layers": stages, "recompute": stages}
        columns = {name: getattr(self, name).copy() for name in names}
        for name, where in names.items():
            columns[name][where] = getattr(better, name)
        return replace(self, **columns)
