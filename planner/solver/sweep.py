"""How the optimum moves: one row for the answer to each question of a grid.

Everything is a pure function; :mod:`planner.solver.parallel` spreads it over processes.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from planner.layouts.layout import FIELDS, value_of
from planner.plans.grid import Point, grid, parse_axes
from planner.plans.plan import Plan
from planner.solver import solve
from planner.solver.answer import Answer
from planner.specs import TensorMode


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of the grid; everything but ``rules`` is empty where there is no layout."""

    varied: dict[str, str]
    status: str
    step_s: float | None = None
    tokens_per_s: float | None = None
    mfu: float | None = None
    fullest_stage_bytes: int | None = None
    tensor_mode: TensorMode | None = None
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    data_parallel: int | None = None
    zero_stage: int | None = None
    micro_batch: int | None = None
    recompute_layers: int | None = None
    offload_optimizer: float | None = None
    offload_parameters: float | None = None
    gap: float | None = None
    rules: tuple[str, ...] = ()
    """Rules that stand in the way, where nothing is valid or nothing fits."""


COLUMNS = tuple(field.name for field in msgspec.structs.fields(Row) if field.name != "varied")
"""Names of the columns behind the varied ones."""


def answer_typed(options: dict[str, Any], vary: Sequence[str], time_limit_s: float | None = None) -> Row:
    """Solve the one question of a grid with one value for each axis, in another process.

    What is typed is a few hundred bytes. A problem is so many that a pipe is full of two, and a process that
    ends its workers then waits for ever for one of them to read on (Python 3.11.2, concurrent.futures).
    """
    (point,) = grid(options, parse_axes(vary))
    return answer_point(point, time_limit_s)


def answer_point(point: Point, time_limit_s: float | None = None) -> Row:
    """Solve one question of the grid."""
    answer = solve(point.problem, time_limit_s=time_limit_s)
    if answer.plan is None:
        return Row(varied=point.varied, status=answer.status, rules=_rules(answer))
    return _row(point, answer, answer.plan)


def _rules(answer: Answer) -> tuple[str, ...]:
    conflicts = answer.refusal.conflicts if answer.refusal else ()
    return tuple(dict.fromkeys(one.rule for conflict in conflicts for one in conflict.requirements))


def _row(point: Point, answer: Answer, plan: Plan) -> Row:
    layout = {field.column: value_of(plan.layout, field.name) for field in FIELDS.values()}
    return Row(
        varied=point.varied,
        status=answer.status,
        step_s=plan.predicted.step_s,
        tokens_per_s=plan.predicted.tokens_per_s,
        mfu=plan.predicted.mfu,
        fullest_stage_bytes=max(stage.peak_bytes for stage in plan.predicted.stages),
        recompute_layers=sum(plan.layout.recompute_layers_per_stage),
        gap=answer.gap,
        **{column: value for column, value in layout.items() if column in COLUMNS},
    )


def rows_csv(keys: Sequence[str], rows: Iterable[Row]) -> bytes:
    """Rows as CSV: the varied ``keys``, then :data:`COLUMNS`."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*keys, *COLUMNS])
    for row in rows:
        cells = {name: getattr(row, name) for name in COLUMNS} | {"rules": " ".join(row.rules)}
        # Nothing is written for None.
        writer.writerow([*row.varied.values(), *cells.values()])
    return text.getvalue().encode(errors="surrogateescape")
