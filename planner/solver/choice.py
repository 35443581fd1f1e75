"""The CP-SAT model of a choice: one layout of a table, and the layers of its stages.

Objectives add their own variables and constraints; see :mod:`planner.solver.step_time` and
:mod:`planner.solver.peak_memory`. Everything in the model is an integer, and every constraint of a
layout is enforced by the literal that chooses it.
"""

import math
import time
from dataclasses import dataclass
from typing import NamedTuple

from ortools.sat.python import cp_model

from planner.layouts.stages import Integers
from planner.solver.interrupt import interruptible
from planner.solver.limits import StageLimits


def deterministic_solver() -> cp_model.CpSolver:
    """A solver on one thread, so that equal models give equal answers."""
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    # Its own handler of Ctrl-C would stay behind in place of Python's.
    solver.parameters.catch_sigint_signal = False
    # With this detection OR-Tools 9.15 calls models infeasible whose values exceed 2^31 and that it
    # solves, to the same optimum, without the detection, without presolve or in coarser units.
    solver.parameters.auto_detect_greater_than_at_least_one_of = False
    return solver


@dataclass(frozen=True, kw_only=True)
class ExactAnswer:
    """What CP-SAT found, in units of the objective."""

    status: str
    """``optimal``, ``feasible``, ``infeasible`` or ``unknown``."""
    layout_row: int | None
    layers: tuple[int, ...]
    recompute: tuple[int, ...] = ()
    """What the objective lets the stages recompute of these layers."""
    objective: float
    bound: float
    spent: bool = False
    """Whether the search ended because its effort was spent."""


class Place(NamedTuple):
    """A stage of a layout in the model."""

    row: int
    """Row of the stage in the flattened stage columns."""
    layers: cp_model.IntVar
    chosen: cp_model.BoolVarT


class ChoiceModel:
    """Which layout, and how many layers on each of its stages."""

    def __init__(self, limits: StageLimits, num_layers: int) -> None:
        """Choose among the layouts of ``limits``; their stages share ``num_layers`` layers."""
        self.model = cp_model.CpModel()
        self.num_layers = num_layers
        self.starts = limits.stages.first_rows()
        self.num_stages = limits.stages.layouts.pipeline_parallel[self.starts]
        self.chosen = [self.model.new_bool_var(f"layout_{row}") for row in range(len(self.starts))]
        self.layers = [
            self.model.new_int_var(0, num_layers, f"layers_{stage}") for stage in range(int(self.num_stages.max()))
        ]
        self.model.add_exactly_one(self.chosen)
        self.model.add(sum(self.layers) == num_layers)
        for row in range(len(self.chosen)):
            self._add_limits(row, limits)

    def _add_limits(self, row: int, limits: StageLimits) -> None:
        for place in self.places(row):
            fewest, most = int(limits.fewest[place.row]), int(limits.most[place.row])
            self.model.add_linear_constraint(place.layers, fewest, most).only_enforce_if(place.chosen)
        for unused in self.layers[int(self.num_stages[row]) :]:
            self.model.add(unused == 0).only_enforce_if(self.chosen[row])

    def places(self, row: int) -> list[Place]:
        """The stages of layout ``row``, in order."""
        start, stages = int(self.starts[row]), int(self.num_stages[row])
        return [Place(start + stage, self.layers[stage], self.chosen[row]) for stage in range(stages)]

    def looked_up(self, layers: cp_model.IntVar, first: int, values: list[int]) -> cp_model.IntVar:
        """A variable that has ``values[i]`` where a stage has ``first + i`` layers, and the nearest value beyond."""
        table = [*[values[0]] * first, *values]
        table += [values[-1]] * (self.num_layers + 1 - len(table))
        here = self.model.new_int_var(min(values), max(values), "")
        self.model.add_element(layers, table[: self.num_layers + 1], here)
        return here

    def hint(self, row: int, layers: Integers) -> None:
        """Start the search from a known solution."""
        for other, literal in enumerate(self.chosen):
            self.model.add_hint(literal, other == row)
        for stage, variable in enumerate(self.layers):
            self.model.add_hint(variable, int(layers[stage]) if stage < len(layers) else 0)

    def solve(self, time_limit_s: float | None, effort: float = math.inf) -> ExactAnswer:
        """Run CP-SAT for at most ``effort`` of its own deterministic seconds; equal models give equal answers.

        Ctrl-C ends the search as the time limit does.

        Raises:
            RuntimeError: CP-SAT finds the model malformed, which is a defect of gptplan.
        """
        solver = deterministic_solver()
        if time_limit_s is not None:
            solver.parameters.max_time_in_seconds = max(time_limit_s, 0.0)
        if effort < math.inf:
            solver.parameters.max_deterministic_time = effort
        ended: list[str] = []
        started = time.monotonic()

        def stop() -> None:
            ended.append("interrupt")
            solver.stop_search()

        status = interruptible(lambda: solver.solve(self.model), stop)
        if time_limit_s is not None and time.monotonic() - started >= time_limit_s:
            ended.append("time limit")
        if status == cp_model.MODEL_INVALID:
            raise RuntimeError(f"CP-SAT refused the model: {self.model.validate()}")
        word, spent = _STATUS[status], effort < math.inf and not ended
        if word not in ("optimal", "feasible"):
            return ExactAnswer(status=word, layout_row=None, layers=(), objective=math.inf, bound=0.0, spent=spent)
        row = next(row for row, literal in enumerate(self.chosen) if solver.boolean_value(literal))
        return ExactAnswer(
            status=word,
            layout_row=row,
            layers=tuple(solver.value(place.layers) for place in self.places(row)),
            objective=solver.objective_value,
            bound=solver.best_objective_bound,
            spent=spent,
        )


_STATUS = {
    cp_model.OPTIMAL: "optimal",
    cp_model.FEASIBLE: "feasible",
    cp_model.INFEASIBLE: "infeasible",
    cp_model.UNKNOWN: "unknown",
}
