"""What is said of the files of a folder, one by one, and the JSON of a checked file."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cli import reading
from planner.codes import Config
from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.lint.check import Checked, check_text
from planner.lint.draft import Asked
from planner.lint.files import SUFFIXES, is_plan, read_text
from planner.plans.plan import read_plan
from planner.specs.files import to_builtins
from planner.views import check as check_view

MAX_FILES = 1000
"""A folder with more files that could be configurations is refused."""
PLAN = ".plan"


@dataclass(frozen=True, kw_only=True)
class JudgedFile:
    """One file of a folder."""

    code: int
    line: str
    document: dict[str, Any]


def files_of(folder: Path) -> list[Path]:
    """Files of a folder and the folders in it, hidden ones and links to folders left out, by name.

    Raises:
        PlanError: a folder cannot be read, or there are more than :data:`MAX_FILES` files.
    """
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            paths = sorted(here.iterdir(), reverse=True)
        except OSError as error:
            raise usage_error(
                f"cannot read the folder: {error.strerror}", location=str(here), hint="name a folder that can be read"
            ) from error
        for path in paths:
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif path.suffix.lower() in (*SUFFIXES, PLAN) and path.is_file():
                found.append(path)
        if len(found) > MAX_FILES:
            raise usage_error(
                f"there are more than {MAX_FILES} files in this folder", location=str(folder), hint="name a smaller one"
            )
    return sorted(found)


def judged_file(path: Path, asked: Asked) -> JudgedFile | None:
    """The judgement of a file of a folder; ``None`` where it configures nothing."""
    shown = str(path)
    try:
        if path.suffix == PLAN:
            return _plan(path)
        text = read_text(path, shown)
        if is_plan(text):
            return _plan(path)
        checked = check_text(text, shown, asked, compare=False)
    except PlanError as error:
        return None if error.diagnostics[0].rule == Config.NOTHING_FOUND else _refused(path, error.diagnostics)
    except OSError as error:
        return _refused(
            path,
            (Diagnostic(rule=Config.UNREADABLE, message=f"cannot read the file: {error.strerror}", location=shown),),
        )
    line = check_view.folder_line(path, checked)
    return JudgedFile(code=exit_code(checked), line=line, document=document_of(checked))


def _plan(path: Path) -> JudgedFile:
    plan = read_plan(path)
    broken, unfit, document = reading.judged(plan)
    findings = [*broken, *unfit]
    words = ", ".join(found.rule for found in findings) if findings else check_view.in_short(plan.predicted)
    verdict = "not valid: " if broken else "valid, and does not fit: " if unfit else "valid and fits: "
    return JudgedFile(
        code=ExitCode.NEGATIVE if findings else ExitCode.OK, line=f"{path}: {verdict}{words}", document=document
    )


def _refused(path: Path, findings: tuple[Diagnostic, ...]) -> JudgedFile:
    document = {"valid": False, "fits": False, "diagnostics": to_builtins(findings), "layout": None, "predicted": None}
    return JudgedFile(
        code=ExitCode.NEGATIVE, line=f"{path}: {findings[0].rule}: {findings[0].message}", document=document
    )


def exit_code(checked: list[Checked]) -> int:
    """0 where every configuration of a file is valid and fits, as far as it is known."""
    return ExitCode.NEGATIVE if any(not one.valid or one.misfits for one in checked) else ExitCode.OK


def document_of(checked: list[Checked]) -> dict[str, Any]:
    """The JSON of ``check``; of several configurations in one file the first gives layout and prediction."""
    first = checked[0]
    diagnostics = [*(found for one in checked for found in one.diagnostics), *_notes(first)]
    return {
        "valid": all(one.valid for one in checked),
        "fits": all(one.fits for one in checked),
        "diagnostics": to_builtins(diagnostics),
        "layout": to_builtins(first.judged.layout),
        "predicted": to_builtins(first.predicted),
    }


def _notes(checked: Checked) -> Iterator[Diagnostic]:
    """What is no finding: the distance from the best layout, or why nothing is predicted."""
    if not checked.valid:
        return
    if checked.predicted is None:
        message = f"no prediction: {checked.no_prediction}"
        yield Diagnostic(rule=Config.NO_PREDICTION, severity="note", message=message, location=checked.source.shown)
        return
    best = checked.best.plan if checked.best is not None else None
    yield Diagnostic(
        rule=Config.COMPARISON,
        severity="note",
        message=check_view.comparison(checked),
        location=checked.source.shown,
        values={
            "slower": checked.slower,
            "best_layout": to_builtins(best.layout) if best else None,
            "best_step_s": best.predicted.step_s if best else None,
        },
    )
