"""Checking one configuration: read, judge, predict, compare with the best layout."""

from dataclasses import dataclass, replace

import msgspec

from planner.codes import Config
from planner.cost_model import predict
from planner.diagnostics import Diagnostic
from planner.layouts.problem import Problem
from planner.lint import detect, fixing, hints, repair, ways
from planner.lint.dialects.megatron.names import dashed_name
from planner.lint.draft import Asked
from planner.lint.files import language_of, read_source
from planner.lint.judging import Judged, judge
from planner.lint.reading import OPEN
from planner.lint.registry import BY_ID
from planner.lint.source import Language, Source
from planner.lint.steps import Change
from planner.plans.prediction import Prediction
from planner.rules.capacity import misfits
from planner.solver import Answer, solve

SEARCH_LIMIT_S = 20.0
"""How long the best layout may be looked for."""
MEMORY_ERROR = 0.05
"""Largest error of predicted peak memory in `gptplan validate tests/validation/h200_runs.csv`, rounded up.

A test compares the two."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """All that is known of one configuration."""

    source: Source
    judged: Judged
    predicted: Prediction | None
    """``None`` where a rule is broken, or where no formula describes the layout."""
    no_prediction: str
    """Why there is none; empty where there is one."""
    misfits: tuple[Diagnostic, ...]
    best: Answer | None

    @property
    def valid(self) -> bool:
        """Whether no rule is broken."""
        return not self.judged.errors

    @property
    def open(self) -> tuple[Diagnostic, ...]:
        """What only running the file would tell."""
        return tuple(one for one in self.judged.diagnostics if one.severity == OPEN)

    @property
    def fits(self) -> bool:
        """Whether the memory model says that every stage fits; false where it says nothing."""
        return self.predicted is not None and not self.misfits

    @property
    def not_executed(self) -> tuple[str, ...]:
        """Rules by which gptplan's own stack does not execute the layout."""
        only_warns = self.judged.draft.only_warns
        found = (one.rule for one in self.judged.diagnostics if only_warns(BY_ID.get(one.rule)))
        return tuple(dict.fromkeys(found))

    @property
    def short_bytes(self) -> int:
        """How much the fullest stage misses; 0 where every stage fits."""
        if self.predicted is None:
            return 0
        return max(0, *(s.peak_bytes + s.reserve_bytes - s.capacity_bytes for s in self.predicted.stages))

    @property
    def slower(self) -> float | None:
        """Predicted step time over that of the best layout; ``None`` where one of them is missing."""
        if self.predicted is None or self.best is None or self.best.plan is None:
            return None
        return self.predicted.step_s / self.best.plan.predicted.step_s

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Violations, warnings and what does not fit."""
        return (*self.judged.diagnostics, *self.misfits)


def read_and_judge(text: str, shown: str, language: Language, asked: Asked) -> tuple[Source, list[Judged]]:
    """The source of a text and the judgement of each configuration in it.

    Raises:
        PlanError: it cannot be parsed, or configures nothing that gptplan knows.
    """
    source = read_source(text, shown, language, asked.given)
    return source, judged_of(source, asked)


def judged_of(source: Source, asked: Asked) -> list[Judged]:
    """The judgement of each configuration in a file that is read.

    Raises:
        PlanError: it configures nothing that gptplan knows.
    """
    judged = ways.settled([judge(draft, asked) for draft in detect.drafts_of(source, asked)])
    # What is true of the whole file is said once.
    return [_with_notes(source, judged[0]), *judged[1:]]


def _with_notes(source: Source, judged: Judged) -> Judged:
    """Places of the file that could not be read, unless a finding about the same line says more."""
    lines = {diagnostic.location.split(":")[1] for diagnostic in judged.diagnostics if ":" in diagnostic.location}
    keys = [key for key in judged.draft.keys.values() if not key.startswith("--")]
    used = {name.partition(".")[0] for name in (*keys, *judged.draft.read)}
    if source.language == "shell":
        # Branches and messages of a script repeat options; only those that the layout is read from matter.
        used = {name for name in source.settings if dashed_name(name) in judged.draft.read}
    notes = [
        Diagnostic(
            rule=note.code,
            severity=_severity(note.severity, note.key, used),
            message=note.message,
            detail=note.detail,
            location=f"{source.shown}:{note.line}:{note.column}",
            values={"key": note.key},
            hint=note.hint or "write constants where gptplan should see them; nothing of the file was executed",
        )
        for note in source.notes
        if note.code != Config.HIDDEN or (str(note.line) not in lines and note.line not in judged.draft.needless_lines)
        if source.language != "shell" or note.key in used
    ]
    notes.sort(key=lambda note: int(note.location.rsplit(":", 2)[1]))
    return replace(judged, diagnostics=(*notes, *judged.diagnostics))


def _severity(severity: str, key: str, used: set[str]) -> str:
    return severity if not key or key.isupper() or key in used else "warning"


def check_text(text: str, shown: str, asked: Asked, *, compare: bool = True) -> list[Checked]:
    """Check every configuration of a text.

    Args:
        text: the file's content.
        shown: its name, whose ending tells the language.
        asked: what the user said beside it.
        compare: whether to look for the best layout of the same GPUs.

    Raises:
        PlanError: it cannot be parsed, or configures nothing that gptplan knows.
    """
    language = language_of(text, shown)
    source, judged = read_and_judge(text, shown, language, asked)
    tries = repair.Tries(
        check=lambda changed: read_and_judge(changed, shown, language, asked), source=source, judged=judged, asked=asked
    )
    return [_checked(source, hints.with_hints(tries, one), compare=compare) for one in judged]


def fix_text(text: str, shown: str, asked: Asked) -> tuple[str, list[Change]]:
    """The nearest valid text and what was changed.

    Raises:
        PlanError: it cannot be parsed, or configures nothing that gptplan knows.
    """
    language = language_of(text, shown)
    source = read_source(text, shown, language, asked.given)
    return fixing.fix(lambda changed: read_and_judge(changed, shown, language, asked), source, asked)


def _checked(source: Source, judged: Judged, *, compare: bool) -> Checked:
    predicted, why = _prediction(judged)
    found: tuple[Diagnostic, ...] = ()
    best = None
    if predicted is not None and judged.problem is not None and judged.layout is not None:
        found = tuple(
            msgspec.structs.replace(misfit, location=source.shown)
            for misfit in misfits(judged.problem, judged.layout, predicted)
        )
        best = best_layout(judged.problem) if compare else None
    return Checked(source=source, judged=judged, predicted=predicted, no_prediction=why, misfits=found, best=best)


def _prediction(judged: Judged) -> tuple[Prediction | None, str]:
    if judged.errors:
        return None, "rules are broken"
    if judged.missing or judged.problem is None or judged.layout is None:
        return None, f"not known: {', '.join(judged.missing)}"
    if judged.draft.unmodelled:
        return None, "; ".join(judged.draft.unmodelled)
    return predict(judged.problem, judged.layout), ""


def best_layout(problem: Problem) -> Answer:
    """The best layout for the question of a configuration: its model, GPUs, batch, sequence and precision."""
    return solve(problem, time_limit_s=SEARCH_LIMIT_S)
