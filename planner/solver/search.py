"""From a problem to an answer: enumerate, judge, limit, bound, solve exactly."""

import time
from typing import Any

import msgspec
import numpy as np
import ortools

from planner import __version__
from planner.answer import Answer, RunnerUp
from planner.candidates import enumerate_layouts
from planner.cost_model import MODELLED_MODES, predict
from planner.diagnostics import Diagnostic
from planner.evidence import Evidence, Space
from planner.layout import Layout, LayoutColumns
from planner.plan import FORMAT_VERSION, Plan, seal
from planner.problem import Problem
from planner.rules import judge
from planner.rules.capacity import DEVICE_MEMORY
from planner.solver import peak_memory, step_time
from planner.solver.choice import ExactAnswer
from planner.solver.limits import stage_limits
from planner.solver.ranked import Ranked
from planner.solver.reasons import why_nothing_fits, why_nothing_is_valid


def solve(problem: Problem, *, time_limit_s: float | None = None, top: int = 1) -> Answer:
    """Find the best layout of ``problem``.

    Args:
        problem: the question.
        time_limit_s: seconds that the exact search may take; ``None`` for no limit.
        top: how many layouts to report, the best included.
    """
    started = time.monotonic()
    columns = enumerate_layouts(problem)
    valid, rejected = judge(problem, columns)
    num_layouts, columns = len(columns), columns.take(valid)
    space = Space(layouts=num_layouts, valid=len(columns), fit=0, rejected=rejected)
    if not len(columns):
        return _infeasible(space, why_nothing_is_valid(problem), started)
    _require_modelled(columns)
    limits = stage_limits(problem, columns)
    fits = limits.fitting_layouts(problem.model.num_layers)
    rejected |= {DEVICE_MEMORY.id: int(np.count_nonzero(~fits))} if not fits.all() else {}
    space = msgspec.structs.replace(space, fit=int(np.count_nonzero(fits)), rejected=rejected)
    if not fits.any():
        return _infeasible(space, why_nothing_fits(problem, columns), started)
    objective = peak_memory if problem.objective == "memory" else step_time
    ranked = objective.rank(problem, limits.take_layouts(fits))
    kept = ranked.promising()
    left = None if time_limit_s is None else time_limit_s - (time.monotonic() - started)
    exact = objective.solve_exactly(problem, ranked.take(kept), left)
    return _answer(problem, space, ranked, kept, exact, top, started)


def _require_modelled(columns: LayoutColumns) -> None:
    if not columns.mode_is(*MODELLED_MODES).all():
        raise NotImplementedError("the stack executes a tensor mode that the cost model does not describe")


def _infeasible(space: Space, reasons: list[Diagnostic], started: float) -> Answer:
    return Answer(
        status="infeasible", objective=None, bound=None, gap=None, solve_s=time.monotonic() - started,
        space=space, reasons=tuple(reasons),
    )  # fmt: skip


def _answer(
    problem: Problem, space: Space, ranked: Ranked, kept: Any, exact: ExactAnswer, top: int, started: float
) -> Answer:
    best, layers, status = _best(ranked, kept, exact)
    order = [best, *(row for row in np.argsort(ranked.achieved, kind="stable").tolist() if row != best)]
    layouts = [_layout(problem, ranked, row, layers if row == best else ranked.layers_of(row)) for row in order[:top]]
    predictions = [predict(problem, layout) for layout in layouts]
    objective = ranked.achieved[best] if exact.layout_row is None else min(exact.objective, ranked.achieved[best])
    bound = float(ranked.lower_bound.min()) if exact.layout_row is None else exact.bound
    objective_value, bound_value = float(objective) * ranked.unit, min(bound, float(objective)) * ranked.unit
    out = ranked.lower_bound[~kept]
    evidence = Evidence(
        status=status,
        objective=objective_value,
        bound=bound_value,
        gap=(objective_value - bound_value) / objective_value,
        space=space,
        bounded_out=len(out),
        lowest_bounded_out=float(out.min()) * ranked.unit if len(out) else None,
        ortools_version=ortools.__version__,
    )
    plan = seal(
        Plan(
            format_version=FORMAT_VERSION, gptplan_version=__version__, problem=problem, spec_digests={},
            layout=layouts[0], predicted=predictions[0], evidence=evidence,
        )
    )  # fmt: skip
    return Answer(
        status=status, objective=evidence.objective, bound=evidence.bound, gap=evidence.gap,
        solve_s=time.monotonic() - started, space=space, plan=plan,
        runners_up=tuple(
            RunnerUp(layout=layout, predicted=prediction)
            for layout, prediction in zip(layouts[1:], predictions[1:], strict=True)
        ),
    )  # fmt: skip


def _best(ranked: Ranked, kept: Any, exact: ExactAnswer) -> tuple[int, Any, str]:
    """Row, layers and status of the answer.

    Among layouts that attain the optimum the first in enumeration order wins, with the even division
    of its layers, so that the answer does not hang on how CP-SAT searched.
    """
    known = ranked.best_row()
    if exact.layout_row is None:
        if exact.status == "infeasible":
            raise RuntimeError("CP-SAT finds no layout where the bounds have one")
        return known, ranked.layers_of(known), "feasible"
    if ranked.achieved[known] <= exact.objective + 0.5:
        return known, ranked.layers_of(known), exact.status
    row = int(np.flatnonzero(kept)[exact.layout_row])
    return row, np.array(exact.layers), exact.status


def _layout(problem: Problem, ranked: Ranked, row: int, layers: Any) -> Layout:
    stages = ranked.limits.stages
    start = int(stages.first_rows()[row])
    recompute = layers if stages.layouts.recompute[start] else np.zeros_like(layers)
    return stages.layouts.layout(start, layers, recompute, problem.precision)
