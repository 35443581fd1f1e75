"""What ``check`` does with a plan, a configuration and a folder, once everything is loaded that it takes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from planner.cli.parameters import print_json
from planner.codes import Config
from planner.cost_model import predict
from planner.diagnostics import Diagnostic, ExitCode, PlanError, escaped, usage_error
from planner.lint.check import Checked, check_text, fix_text
from planner.lint.draft import Asked
from planner.lint.files import PLAN_SUFFIX, byte_order_mark, files_of, is_plan, read_text
from planner.lint.fixing import listed_changes
from planner.lint.freezing import by_hand
from planner.outputs import tell, write_output
from planner.plans.plan import Plan, holds_frozen_plan, read_plan, write_plan
from planner.rules import violations
from planner.rules.capacity import misfits
from planner.specs.files import to_builtins
from planner.views import check as check_view
from planner.views import findings
from planner.views import plan as plan_view
from planner.views.terminal import print_content


def print_listed(files: list[tuple[Path, list[Diagnostic]]], form: str) -> None:
    """Findings as other programs read them: ``github`` or ``sarif``."""
    if form == "sarif":
        print_json(findings.sarif(files))
        return
    for path, found in files:
        for line in findings.github(path, found):
            sys.stdout.write(f"{escaped(line)}\n")


def check_plan(path: Path, form: str) -> int:
    """Judge the layout of a plan by all rules and the memory model."""
    plan = read_plan(path)
    broken, unfit, document = _judged(plan)
    if form == "json":
        print_json(document)
    elif form != "text":
        print_listed([(path, [*broken, *unfit])], form)
    else:
        print_content(*plan_view.judgement(plan, [*broken, *unfit]))
    return ExitCode.NEGATIVE if broken or unfit else ExitCode.OK


def _judged(plan: Plan) -> tuple[list[Diagnostic], list[Diagnostic], dict[str, Any]]:
    """Rules that the layout of a plan breaks, what does not fit, and the JSON of ``check``."""
    broken = violations(plan.problem, plan.layout)
    predicted = None if broken else predict(plan.problem, plan.layout)
    unfit = [] if predicted is None else misfits(plan.problem, plan.layout, predicted)
    document = {
        "valid": not broken,
        "fits": not broken and not unfit,
        "layout": to_builtins(plan.layout),
        "diagnostics": to_builtins([*broken, *unfit]),
        "predicted": to_builtins(predicted),
    }
    return broken, unfit, document


def check_configuration(path: Path, text: str, asked: Asked, form: str, *, strict: bool) -> int:
    """Judge every configuration of a file."""
    checked = check_text(text, str(path), asked)
    if form == "json":
        print_json(_document(checked))
    elif form != "text":
        print_listed([(path, _findings(checked))], form)
    else:
        for number, one in enumerate(checked):
            sys.stdout.write("\n" if number else "")
            print_content(*check_view.judgement(one))
    return _exit_code(checked, strict=strict)


def _findings(checked: list[Checked]) -> list[Diagnostic]:
    """Every finding once, though several configurations of a file may have it."""
    found = {(one.rule, one.location, one.message): one for each in checked for one in each.diagnostics}
    return list(found.values())


def fix(path: Path, text: str, asked: Asked, target: Path, *, force: bool, as_json: bool) -> int:
    """Write the nearest valid configuration to ``target``, if there is one and it differs."""
    fixed, changes = fix_text(text, str(path), asked)
    # The language follows the name that was checked, whatever the new file is called.
    checked = check_text(fixed, str(path), asked)
    valid = all(one.valid for one in checked)
    if valid and changes:
        write_output(byte_order_mark(path) + fixed.encode(), target, what="configuration", force=force)
    if as_json:
        file = str(target) if changes and valid else None
        print_json(_document(checked) | {"changes": msgspec.to_builtins(changes), "file": file})
    elif not valid:
        for one in checked:
            if not one.valid:
                print_content(*check_view.judgement(one))
        tell(f"{path}: nothing was written: these findings need values that only you know")
    elif changes:
        tell(f"{listed_changes(changes)}\n{target}: {check_view.verdict(checked[0])}")
    else:
        tell(f"{path}: nothing to fix")
    return ExitCode.OK if valid else ExitCode.NEGATIVE


def freeze(path: Path, text: str, asked: Asked, target: Path, *, force: bool, as_json: bool) -> int:
    """Write the layout of a valid configuration that fits to the plan ``target``."""
    checked = check_text(text, str(path), asked)
    first, plan = checked[0], None
    if len(checked) > 1:
        raise usage_error(
            f"this file has {len(checked)} configurations, and a plan holds one layout",
            location=str(path),
            hint="leave one of them in the file",
        )
    if first.valid and not first.misfits:
        plan = by_hand(first)
        write_plan(plan, target, force=force, ours=holds_frozen_plan)
    if as_json:
        print_json(_document(checked) | {"plan_file": str(target) if plan else None})
    else:
        print_content(*check_view.judgement(first))
    if plan is None:
        return ExitCode.NEGATIVE
    if not as_json:
        stack, problem = plan.problem.stack, first.judged.problem
        other = "" if problem and problem.stack.name == stack.name else f", for stack {stack.name} {stack.version}"
        tell(f"\nplan: {target}{other}")
    return ExitCode.OK


def check_folder(folder: Path, asked: Asked, form: str, *, strict: bool) -> int:
    """Judge the files of a folder that configure something, one line each."""
    code, documents = int(ExitCode.OK), []
    files: list[tuple[Path, list[Diagnostic]]] = []
    for path in files_of(folder):
        one = _judged_file(path, asked, strict=strict)
        if one is None:
            continue
        code = max(code, one.code)
        documents.append({"file": str(path), **one.document})
        files.append((path, one.findings))
        if form == "text":
            print_content(one.line)
    if not documents:
        raise usage_error(
            "there is no configuration in this folder",
            location=str(folder),
            hint="gptplan reads Python, JSON, TOML, YAML and shell files, and plans",
        )
    if form == "json":
        print_json({"files": documents})
    elif form != "text":
        print_listed(files, form)
    return code


class _JudgedFile(NamedTuple):
    code: int
    line: str
    document: dict[str, Any]
    findings: list[Diagnostic]


def _judged_file(path: Path, asked: Asked, *, strict: bool) -> _JudgedFile | None:
    """The judgement of a file of a folder; ``None`` where it configures nothing."""
    shown = str(path)
    try:
        if path.suffix == PLAN_SUFFIX or is_plan(text := read_text(path, shown)):
            return _plan(path)
        checked = check_text(text, shown, asked, compare=False)
    except PlanError as error:
        return None if error.diagnostics[0].rule == Config.NOTHING_FOUND else _refused(path, error.diagnostics)
    except OSError as error:
        message = f"cannot read the file: {error.strerror}"
        return _refused(path, (Diagnostic(rule=Config.UNREADABLE, message=message, location=shown),))
    return _JudgedFile(
        _exit_code(checked, strict=strict),
        check_view.folder_line(path, checked),
        _document(checked),
        _findings(checked),
    )


def _plan(path: Path) -> _JudgedFile:
    plan = read_plan(path)
    broken, unfit, document = _judged(plan)
    found = [*broken, *unfit]
    words = ", ".join(one.rule for one in found) if found else check_view.in_short(plan.predicted)
    verdict = "not valid: " if broken else "valid, and does not fit: " if unfit else "valid and fits: "
    return _JudgedFile(ExitCode.NEGATIVE if found else ExitCode.OK, f"{path}: {verdict}{words}", document, found)


def _refused(path: Path, found: tuple[Diagnostic, ...]) -> _JudgedFile:
    document = {"valid": False, "fits": False, "diagnostics": to_builtins(found), "layout": None, "predicted": None}
    return _JudgedFile(ExitCode.NEGATIVE, f"{path}: {found[0].rule}: {found[0].message}", document, list(found))


def _exit_code(checked: list[Checked], *, strict: bool) -> int:
    """0 where every configuration of a file is valid and fits, as far as it is known; ``strict``: all is known."""
    negative = any(not one.valid or one.misfits or (strict and one.open) for one in checked)
    return ExitCode.NEGATIVE if negative else ExitCode.OK


def _document(checked: list[Checked]) -> dict[str, Any]:
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
