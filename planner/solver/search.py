"""From a problem to an answer: enumerate, screen, limit, bound, solve exactly."""

import importlib.metadata
import math
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from planner import __version__
from planner.cost_model import predict
from planner.cost_model.errors import KINDS, kind_columns
from planner.cost_model.intervals import step_interval
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.plans.plan import FORMAT_VERSION, Evidence, Plan, Space, seal
from planner.rules import capacity, screen
from planner.solver import peak_memory, step_time
from planner.solver.answer import Answer, RunnerUp
from planner.solver.candidates import enumerate_layouts, too_many
from planner.solver.choice import ExactAnswer
from planner.solver.fit import FitTable
from planner.solver.limits import one_division_each, stage_limits
from planner.solver.ranked import Division, Ranked, first_of_each
from planner.solver.why_not.refusal import Refusal, why_infeasible

MOST_STAGES = 1_000_000
"""Stages of valid layouts that are ranked within a minute and 2 GB of memory."""
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
    def num_kept(self) -> int:
        """Layouts that the exact model saw, a V with and without recomputation as one."""
        return int(np.count_nonzero(first_of_each(self.ranked.take(self.kept).columns)))

    @property
    def lowest_bounded_out(self) -> float | None:
        """The least lower bound of a layout that the exact model did not see, in base units."""
        left_out = self.ranked.lower_bound[~self.kept]
        return float(left_out.min()) * self.ranked.unit if len(left_out) else None

    def layouts(self, most: int) -> list[tuple[Layout, int]]:
        """The best layout, then those of other choices by what they achieve, ``most`` in all; each with its variants.

        A layout is one of its variants itself.
        """
        best, division = self._best()
        rows, variants = self.ranked.best_of_choices(best)
        divisions = [division, *map(self.ranked.division, rows[1:most])]
        chosen = zip(rows, divisions, variants, strict=False)
        return [(self.ranked.layout(row, its, self.problem.precision), count) for row, its, count in chosen]

    def overlapping(self) -> int:
        """Choices other than the best whose interval of the step time overlaps that of the best."""
        rows, _ = self.ranked.best_of_choices(self._best()[0])
        columns = self.ranked.limits.stages.layouts.take(self.ranked.limits.stages.first_rows()[np.array(rows)])
        ends = np.array([step_interval(self.problem, kind) for kind in KINDS])[kind_columns(columns)]
        low, high = (self.ranked.achieved[rows] * ends[:, side] for side in (0, 1))
        return int(np.count_nonzero(low[1:] <= high[0]))

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


def solve(problem: Problem, *, time_limit_s: float | None = None, top: int = 1) -> Answer:
    """Find the best layout of ``problem``.

    Ctrl-C ends it with the best layout so far, once layouts are ranked; before, it raises.

    Args:
        problem: the question.
        time_limit_s: seconds that the exact search may take; ``None`` for no limit.
        top: how many choices to report by their best layouts, the best of all included.

    Raises:
        PlanError: there are too many layouts to judge, or more than :data:`MOST_STAGES` stages of valid ones.
    """
    started = time.monotonic()
    columns = enumerate_layouts(problem)
    valid, rejected = screen(problem, columns)
    num_layouts, columns = len(columns), columns.take(valid)
    space = Space(layouts=num_layouts, valid=len(columns), fit=0, rejected=rejected)
    if not len(columns):
        return _infeasible(space, why_infeasible(problem), started)
    if (stages := int(columns.pipeline_parallel.sum())) > MOST_STAGES:
        raise too_many(problem, f"valid layouts with {stages:,} stages in all, and {MOST_STAGES:,} can be ranked")
    table = FitTable(problem, columns)
    fits = table.fit()
    rejected |= _misfits(table)
    space = msgspec.structs.replace(space, fit=int(np.count_nonzero(fits)), rejected=rejected)
    if not fits.any():
        return _infeasible(space, why_infeasible(problem), started)
    limits = one_division_each(problem, stage_limits(problem, table.fitting()))
    objective = peak_memory if problem.objective == "memory" else step_time
    ranked = objective.rank(problem, limits)
    kept = ranked.promising()
    left = None if time_limit_s is None else time_limit_s - (time.monotonic() - started)
    try:
        exact = objective.solve_exactly(problem, ranked.take(kept), left)
    except KeyboardInterrupt:  # before CP-SAT searched: what is ranked has a best and a bound
        exact = ExactAnswer(status="unknown", layout_row=None, layers=(), objective=math.inf, bound=0.0)
    found = Found(problem=problem, ranked=ranked, kept=kept, exact=exact)
    return _answer(found, space, top, started)


def _misfits(table: FitTable) -> dict[str, int]:
    """How many valid layouts do not fit each memory; one is counted for the first of them."""
    counts, left = {}, table.fit(())
    for number, rule in enumerate(capacity.RULES, start=1):
        fit = table.fit(range(number))
        counts[rule.id] = int(np.count_nonzero(left & ~fit))
        left = fit
    return {rule: count for rule, count in counts.items() if count}


def _infeasible(space: Space, refusal: Refusal, started: float) -> Answer:
    return Answer(
        status="infeasible",
        objective=None,
        bound=None,
        gap=None,
        solve_s=time.monotonic() - started,
        space=space,
        refusal=refusal,
    )


def _answer(found: Found, space: Space, top: int, started: float) -> Answer:
    (layout, variants), *others = found.layouts(top)
    objective, bound = found.objective, found.bound
    evidence = Evidence(
        status=found.status,
        objective=objective,
        bound=bound,
        gap=(objective - bound) / objective,
        space=space,
        bounded_out=space.fit - found.num_kept,
        lowest_bounded_out=found.lowest_bounded_out,
        ortools_version=importlib.metadata.version("ortools"),
        overlapping=found.overlapping() if found.problem.objective == "step-time" else None,
    )
    plan = seal(
        Plan(
            format_version=FORMAT_VERSION,
            gptplan_version=__version__,
            problem=found.problem,
            spec_digests={},
            layout=layout,
            predicted=predict(found.problem, layout),
            evidence=evidence,
        )
    )
    return Answer(
        status=evidence.status,
        objective=objective,
        bound=bound,
        gap=evidence.gap,
        solve_s=time.monotonic() - started,
        space=space,
        plan=plan,
        variants=variants,
        runners_up=tuple(
            RunnerUp(layout=other, predicted=predict(found.problem, other), variants=count) for other, count in others
        ),
    )
