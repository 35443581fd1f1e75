"""Fitting layouts with a lower bound and a known solution each: the input of the exact model."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.layout import Layout
from planner.solver.limits import StageLimits
from planner.spec import Precision
from planner.stages import Floats, Integers


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
    unit: float
    """One unit of the objective in base units: seconds of a tick, or 1 for bytes."""

    def __len__(self) -> int:
        """Number of layouts."""
        return len(self.achieved)

    def best_row(self) -> int:
        """The layout with the least achieved objective, the first one among equals."""
        return int(self.achieved.argmin())

    def layers_of(self, row: int) -> Integers:
        """Layers per stage of one layout."""
        start = int(self.limits.stages.first_rows()[row])
        return self.layers[start : start + int(self.limits.stages.layouts.pipeline_parallel[start])]

    def layout(self, row: int, layers: Integers, precision: Precision) -> Layout:
        """One layout with the given layers per stage; all of them recompute, or none does."""
        stages = self.limits.stages
        start = int(stages.first_rows()[row])
        recompute = layers if stages.layouts.recompute[start] else np.zeros_like(layers)
        return stages.layouts.layout(start, layers.tolist(), recompute.tolist(), precision)

    def promising(self) -> NDArray[np.bool_]:
        """Which layouts can be at least as good as the best achieved objective."""
        return np.asarray(self.lower_bound <= self.achieved.min())

    def take(self, kept: NDArray[np.bool_]) -> "Ranked":
        """The layouts that a mask keeps."""
        rows = np.repeat(kept, self.limits.stages.layouts.pipeline_parallel[self.limits.stages.first_rows()])
        return Ranked(
            limits=self.limits.take_layouts(kept),
            lower_bound=self.lower_bound[kept],
            achieved=self.achieved[kept],
            layers=self.layers[rows],
            unit=self.unit,
        )
