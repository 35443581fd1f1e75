"""A stack's constants from recorded runs: fitted on one half of them and judged on the other."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from planner.calibration.constants import CONSTANTS, Constant
from planner.calibration.least_squares import Vector, jacobian, minimise
from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.errors import KINDS, error_of, kind_columns
from planner.diagnostics import usage_error
from planner.layouts.layout import columns_of
from planner.layouts.stages import stages_of_layout
from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import to_builtins
from planner.validation.cases import Case
from planner.validation.report import time_pair, validate
from planner.validation.score import Errors, errors

LEAST_ROWS = 8
"""Scored rows below which no half could say anything."""
ROWS_PER_CONSTANT = 3
"""Rows of the fitted half for each constant: fewer would fit the noise of single runs."""
LEAST_EFFECT = 0.01
"""A constant whose whole range moves no row's prediction by this share is left alone."""
PULL = 0.2
"""Residual of a constant that has moved across its whole range, against logarithms of step times: a row that is
5 % off weighs as much as a quarter of the range."""


class Fitted(msgspec.Struct, frozen=True, kw_only=True):
    """One constant before and after."""

    name: str
    before: float
    after: float


class Refit(msgspec.Struct, frozen=True, kw_only=True):
    """A refitted stack and what it predicts of rows that it was not fitted to."""

    base: str
    stack: StackSpec
    constants: tuple[Fitted, ...]
    fit_before: Errors
    fit_after: Errors
    held_out_before: Errors
    held_out_after: Errors
    skipped: dict[str, int]
    """Reason to the number of rows left out."""

    @property
    def is_better(self) -> bool:
        """Whether the mean error of the held-out rows fell."""
        return (self.held_out_after.mean_abs_pct or 0.0) < (self.held_out_before.mean_abs_pct or 0.0)

    def document(self) -> dict[str, Any]:
        """The answer as plain values."""
        fields: dict[str, Any] = to_builtins(self)
        return fields | {"is_better": self.is_better}


def refit(
    runs: Path, *, name: str, date: str, stack: StackSpec | None = None, hardware: HardwareSpec | None = None
) -> Refit:
    """Refit the stack of the runs, or ``stack``, to the step times of a table of recorded runs.

    Rows of one layout are all in the same half. Without ``stack`` the rows of the stack that has most are
    taken.

    Raises:
        PlanError: the table cannot be read, or too few of its rows have a step time and a prediction.
    """
    report = validate([runs], (), hardware)
    skipped = Counter(one.skipped for one in report.replays if one.skipped is not None)
    cases = [one.case for one in report.replays if one.case is not None and time_pair(one) is not None]
    base = stack or _most_common(cases)
    if base is not None and stack is None:
        others = Counter(case.problem.stack.name for case in cases if case.problem.stack.name != base.name)
        skipped.update({f"a run of stack {other}, not {base.name}": count for other, count in others.items()})
        cases = [case for case in cases if case.problem.stack.name == base.name]
    fit, held_out = halves(cases)
    if base is None or len(cases) < LEAST_ROWS or min(len(fit), len(held_out)) < LEAST_ROWS // 2:
        raise usage_error(
            f"{len(cases)} rows of one stack have a step time that can be predicted, {len(fit)} to fit and "
            f"{len(held_out)} to hold out; a refit needs {LEAST_ROWS} or more, and {LEAST_ROWS // 2} in each half",
            location=str(runs),
            rule="CAL002",
            hint=f"record {LEAST_ROWS} or more different layouts; `gptplan validate {runs}` says why rows are skipped",
        )
    return _fitted(base, (fit, held_out), dict(skipped), name=name, source=f"{runs.name}, {date}")


def _fitted(
    base: StackSpec, sides: tuple[list[Case], list[Case]], skipped: dict[str, int], *, name: str, source: str
) -> Refit:
    fit, held_out = sides
    constants = telling_constants(base, fit)
    changed = fit_constants(base, fit, constants)
    after = _errors(held_out, changed)
    moved = tuple(Fitted(name=one.name, before=one.of(base) or 0.0, after=one.of(changed) or 0.0) for one in constants)
    sources = {
        one.name: f"fitted to {len(fit)} step times of {source}; was {one.before:.4g} in stack {base.name}"
        for one in moved
    }
    note = f"step times: {len(held_out)} rows of {source} that the constants were not fitted to"
    cards = tuple(sorted({case.problem.hardware.name for case in (*fit, *held_out)}))
    changed = msgspec.structs.replace(
        changed,
        measured_on=cards,
        name=name,
        title=f"{base.title}, refitted",
        errors=_error_specs(base, changed, held_out),
        sources=base.sources | sources | {"errors": f"{note}; memory as in stack {base.name}"},
    )
    return Refit(
        base=base.name,
        stack=changed,
        constants=moved,
        fit_before=_errors(fit, base),
        fit_after=_errors(fit, changed),
        held_out_before=_errors(held_out, base),
        held_out_after=after,
        skipped=skipped,
    )


def _most_common(cases: Sequence[Case]) -> StackSpec | None:
    counts = Counter(case.problem.stack.name for case in cases)
    names = [name for name, _ in counts.most_common(1)]
    return next((case.problem.stack for case in cases if case.problem.stack.name in names), None)


def layout_hash(case: Case) -> str:
    """The same for the same model, batch, card and layout, whatever the table says else."""
    problem = case.problem
    asked = (
        problem.model.num_layers,
        problem.model.hidden_size,
        problem.global_batch,
        problem.seq_len,
        problem.hardware.name,
        to_builtins(case.layout),
    )
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()


def halves(cases: Sequence[Case]) -> tuple[list[Case], list[Case]]:
    """Rows to fit and rows to hold out: layouts in the order of their hash, in turn. Nothing is drawn by chance."""
    hashes = {id(case): layout_hash(case) for case in cases}
    place = {digest: index for index, digest in enumerate(sorted(set(hashes.values())))}
    fit = [case for case in cases if place[hashes[id(case)]] % 2 == 0]
    return fit, [case for case in cases if place[hashes[id(case)]] % 2 == 1]


def predicted_s(case: Case, stack: StackSpec) -> float:
    """Step time of a case under another stack spec. Units: s."""
    problem = msgspec.structs.replace(case.problem, stack=stack)
    return sum(step_breakdown(problem, stages_of_layout(case.layout)).values())


def _measured_s(case: Case) -> float:
    return case.measured.step_s or 0.0


def _errors(cases: Sequence[Case], stack: StackSpec) -> Errors:
    return errors([(_measured_s(case), predicted_s(case, stack)) for case in cases])


def _error_specs(base: StackSpec, changed: StackSpec, held_out: Sequence[Case]) -> dict[str, Any]:
    """Step-time errors by kind of layout, from held-out rows where there are any; memory errors stay."""
    kinds = [KINDS[int(kind_columns(columns_of(case.layout))[0])] for case in held_out]
    specs = dict(base.errors)
    for kind in ("all", *dict.fromkeys(kinds)):
        own = [case for case, its in zip(held_out, kinds, strict=True) if kind in ("all", its)]
        found = _errors(own, changed)
        known = error_of(base, kind)[1]
        specs[kind] = msgspec.structs.replace(known, step_time=(found.mean_abs_pct or 0.0) / 100.0, runs=len(own))
    return specs


def _residuals(base: StackSpec, cases: Sequence[Case], constants: Sequence[Constant], at: Vector) -> Vector:
    """Logarithms of predicted over measured step time, one for each row."""
    stack = with_constants(base, constants, at)
    return np.log([predicted_s(case, stack) / _measured_s(case) for case in cases])


def with_constants(base: StackSpec, constants: Sequence[Constant], at: Vector) -> StackSpec:
    """The stack with constants at these places between their bounds, 0 to 1."""
    stack = base
    for constant, share in zip(constants, at, strict=True):
        low, high = constant.bounds(base)
        stack = constant.put(stack, low + float(share) * (high - low))
    return stack


def _start(base: StackSpec, constants: Sequence[Constant]) -> Vector:
    places = []
    for one in constants:
        low, high = one.bounds(base)
        places.append(((one.of(base) or 0.0) - low) / (high - low))
    return np.array(places, dtype=np.float64)


def telling_constants(base: StackSpec, fit: Sequence[Case]) -> list[Constant]:
    """The constants that move the fitted rows most, as many as the rows can bear."""
    present = [one for one in CONSTANTS if one.of(base) is not None]
    start = _start(base, present)
    here = _residuals(base, fit, present, start)
    slope = jacobian(lambda at: _residuals(base, fit, present, at), start, here)
    effects = np.abs(slope).max(axis=0)
    order = np.argsort(-np.sqrt((slope**2).sum(axis=0)), kind="stable")
    most = max(1, len(fit) // ROWS_PER_CONSTANT)
    return [present[index] for index in order if effects[index] >= LEAST_EFFECT][:most]


def fit_constants(base: StackSpec, fit: Sequence[Case], constants: Sequence[Constant]) -> StackSpec:
    """The stack whose constants fit the rows best, each drawn a little towards where it was."""
    if not constants:
        return base
    start = _start(base, constants)

    def residuals(at: Vector) -> Vector:
        pull = PULL * (at - start)
        return np.concatenate([_residuals(base, fit, constants, at), pull])

    return with_constants(base, constants, minimise(residuals, start))
