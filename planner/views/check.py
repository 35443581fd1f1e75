"""What people read of a check: findings, the verdict, the layout, memory with its error, and one line for a folder."""

from collections.abc import Sequence
from pathlib import Path

from planner.diagnostics import Diagnostic, render
from planner.layouts import words
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.lint.check import MEMORY_ERROR, Checked
from planner.plans.prediction import Prediction
from planner.specs.units import format_gib, format_seconds
from planner.views.content import Fields, Table
from planner.views.plan import batch_words, figures, memory_table

_ERROR = f"{MEMORY_ERROR:.0%} error of the memory model"
MEMORY_COLUMNS = ("stage", "peak", "error", "+ reserve", "of", "free")


def verdict(checked: Checked) -> str:
    """``valid and fits; 1.34x slower than the best: ...`` or what stands in the way."""
    if not checked.valid:
        count = len(checked.judged.errors)
        return f"not valid: {count} {'rule is' if count == 1 else 'rules are'} broken"
    if checked.open:
        count = len(checked.open)
        return f"valid as far as it can be read; {count} {'value is' if count == 1 else 'values are'} open"
    if checked.predicted is None:
        return f"valid by every rule that could be checked; no prediction: {checked.no_prediction}"
    how = f"valid and fits{_tightly(checked.predicted)}"
    if checked.misfits:
        how = f"valid, and does not fit{_closely(checked, checked.predicted)}"
    rules, stack = ", ".join(checked.not_executed), checked.judged.draft.dialect.stack
    unexecuted = f" by the formulas alone, as stack {stack} does not execute it ({rules})" if rules else ""
    return f"{how}{unexecuted}; {comparison(checked)}"


def _tightly(predicted: Prediction) -> str:
    tight = any(s.peak_bytes * (1 + MEMORY_ERROR) > s.capacity_bytes - s.reserve_bytes for s in predicted.stages)
    return f", with less room than the {_ERROR}" if tight else ""


def _closely(checked: Checked, predicted: Prediction) -> str:
    close = 0 < checked.short_bytes <= max(stage.peak_bytes for stage in predicted.stages) * MEMORY_ERROR
    return f" by {format_gib(checked.short_bytes)}, less than the {_ERROR}" if close else ""


def comparison(checked: Checked) -> str:
    """How far the layout is from the best one for the same GPUs and batch."""
    slower, best = checked.slower, checked.best
    if best is None:
        return "the best layout was not looked for"
    if slower is None or best.plan is None:
        return f"no best layout to compare with: {best.status}"
    line = f"{words.in_one_line(best.plan.layout)}, {format_seconds(best.plan.predicted.step_s)}"
    if checked.misfits:
        return f"the best that fits is {line}"
    proven = "" if best.status == "optimal" else f" (at most {best.gap or 0:.1%} from the optimum)"
    if slower <= 1 + 1e-9:
        return f"no layout for these GPUs is faster{proven}"
    return f"{slower:.2f}x slower than the best{proven}: {line}"


def judgement(checked: Checked) -> list[str | Fields | Table]:
    """Every finding, then the verdict; then layout, time and memory where they are known."""
    draft, problem, layout = checked.judged.draft, checked.judged.problem, checked.judged.layout
    blocks: list[str | Fields | Table] = [f"{render(diagnostic)}\n" for diagnostic in checked.diagnostics]
    blocks.append(f"{checked.source.shown}: {draft.dialect.framework}: {verdict(checked)}")
    if not checked.valid:
        return blocks
    if draft.assumptions:
        blocks.append(f"assumes: {'; '.join(draft.assumptions)}")
    if problem is not None and layout is not None:
        blocks += ["", _layout_fields(problem, layout)]
        if checked.predicted is not None:
            table = memory_table(layout, checked.predicted, MEMORY_COLUMNS, error=MEMORY_ERROR)
            blocks += [f"\n{'   '.join(figures(checked.predicted))}\n", table]
    return blocks


def _layout_fields(problem: Problem, layout: Layout) -> Fields:
    left = [
        ("model", problem.model.name),
        (words.TENSOR.name, words.TENSOR.words(layout, words.SEQUENCE.short(layout))),
        words.PIPELINE.field(layout),
        (words.DATA.name, words.DATA.words(layout, "set automatically")),
        words.ZERO.field(layout),
        words.RECOMPUTE.field(layout),
    ]
    right = [
        ("GPUs", f"{problem.num_devices} x {problem.hardware.name}"),
        ("global batch", batch_words(problem)),
        *(fact.field(layout) for fact in (words.BATCHES, words.PRECISION, words.OFFLOAD)),
        ("stack", f"{problem.stack.name} {problem.stack.version}"),
    ]
    return Fields([*left, *right])


def folder_line(path: Path, checked: Sequence[Checked]) -> str:
    """One line for a file of a folder."""
    broken = [error for one in checked for error in one.judged.errors]
    if broken:
        found = ", ".join(f"{error.rule} {_line(error)}".strip() for error in broken[:4])
        return f"{path}: not valid: {found}{', ...' if len(broken) > 4 else ''}"  # noqa: PLR2004 - fits a line
    return f"{path}: {'; '.join(dict.fromkeys(map(_short, checked)))}"


def _line(diagnostic: Diagnostic) -> str:
    parts = diagnostic.location.split(":")
    return f"line {parts[1]}" if len(parts) > 1 and parts[1].isdecimal() else ""


def _short(checked: Checked) -> str:
    if checked.open:
        return (
            f"valid as far as it can be read: {', '.join(str(one.values.get('key')) for one in checked.open[:4])} open"
        )
    if checked.predicted is None:
        return f"valid; no prediction: {checked.no_prediction}"
    fits = "valid and fits" if checked.fits else "valid, and does not fit"
    return f"{fits}: {in_short(checked.predicted)}"


def in_short(predicted: Prediction) -> str:
    """Memory of the fullest stage, and the step time."""
    fullest = max(predicted.stages, key=lambda stage: stage.peak_bytes)
    step = format_seconds(predicted.step_s)
    return f"{format_gib(fullest.peak_bytes)} of {format_gib(fullest.capacity_bytes)}, step {step}"
