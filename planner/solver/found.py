"""What the exact search found, read as layouts, objective and bound."""

from dataclasses import dataclass

import numpy as np

from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.solver.choice import ExactAnswer
from planner.solver.ranked import Division, Ranked

HALF_A_UNIT = 0.5
"""Objectives nearer than this are equal: all of them are made of whole units."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Ranked layouts, which of them the exact model saw, and its answer."""

    problem: Problem
    ranked: Ranked
    kept: Booleans
    exact: ExactAnswer

    @property
    def status(self) -> str:
        """``optimal``, or ``feasible`` where the search was cut short.

        Raises:
            RuntimeError: CP-SAT contradicts the bounds, which is a defect of gptplan.
        """
        if self.exact.status == "infeasible":
            raise RuntimeError("CP-SAT finds no layout where the bounds have one")
        return "optimal" if self.exact.status == "optimal" else "feasible"

    @property
    def objective(self) -> float:
        """The best known objective, in base units."""
        return min(self.exact.objective, float(self.ranked.achieved.min())) * self.ranked.unit

    @property
    def bound(self) -> float:
        """What no layout of the space beats, in base units; at most the objective."""
        best_of_all = max(self.exact.bound, float(self.ranked.lower_bound.min()))
        return min(best_of_all * self.ranked.unit, self.objective)

    @property
    def lowest_bounded_out(self) -> float | None:
        """The least lower bound of a layout that the exact model did not see, in base units."""
        left_out = self.ranked.lower_bound[~self.kept]
        return float(left_out.min()) * self.ranked.unit if len(left_out) else None

    def layouts(self, most: int) -> list[Layout]:
        """The best layout, then others by what they achieve, ``most`` in all."""
        row, division = self._best()
        others = [other for other in np.argsort(self.ranked.achieved, kind="stable").tolist() if other != row]
        rows = [(row, division), *((other, self.ranked.division(other)) for other in others[: most - 1])]
        return [self.ranked.layout(*one, self.problem.precision) for one in rows]

    def _best(self) -> tuple[int, Division]:
        """Row of the best layout, and how it divides its layers.

        Among layouts that attain the optimum the first in enumeration order wins, with the even
        division of its layers, so that the answer does not hang on how CP-SAT searched.
        """
        known = self.ranked.best_row()
        row = self.exact.layout_row
        if row is None or self.ranked.achieved[known] <= self.exact.objective + HALF_A_UNIT:
            return known, self.ranked.division(known)
        division = Division(np.array(self.exact.layers), np.array(self.exact.recompute))
        return int(np.flatnonzero(self.kept)[row]), division
