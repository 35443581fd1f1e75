"""``check``: plans, hand-written configurations and folders of them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner import check_view
from planner.commands import reading
from planner.commands.output import print_json
from planner.configs.check import Checked, by_hand, check_text, fix_text
from planner.configs.draft import Asked
from planner.configs.files import SUFFIXES, byte_order_mark, is_plan, read_text
from planner.configs.fixing import listed_changes
from planner.configs.steps import Change
from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.plan import write_bytes, write_plan
from planner.question import MAX_DEVICES, check_count, parse_reserve
from planner.spec import HardwareSpec, ModelSpec
from planner.spec_files import load_spec, to_builtins

MAX_FILES = 1000
"""A folder with more files that could be configurations is refused."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """The options of ``check``, as typed."""

    gpus: int | None = None
    gpu: str = "a100-40g"
    model: str | None = None
    gpus_per_node: int | None = None
    global_batch: int | None = None
    seq_len: int | None = None
    reserve: str | None = None
    fix: bool = False
    as_plan: bool = False
    output: Path | None = None
    as_json: bool = False


def check(path: Path, options: CheckOptions) -> int:
    """Check a plan, a configuration or a folder."""
    if path.is_dir():
        return _check_folder(path, options)
    if path.suffix == ".plan":
        return reading.check(path, as_json=options.as_json)
    text = read_text(path, str(path))
    if is_plan(text):
        return reading.check(path, as_json=options.as_json)
    asked = _asked(options)
    if options.fix:
        return _fix(path, text, asked, options)
    checked = check_text(text, str(path), asked)
    if options.as_plan:
        return _write_plan(path, checked, options)
    if options.as_json:
        print_json(_document(checked))
    else:
        for number, one in enumerate(checked):
            sys.stdout.write("\n" if number else "")
            check_view.print_checked(one)
    return _exit_code(checked)


def _exit_code(checked: list[Checked]) -> int:
    return ExitCode.NEGATIVE if any(not one.valid or one.misfits for one in checked) else ExitCode.OK


def _asked(options: CheckOptions) -> Asked:
    if options.gpus is None:
        raise usage_error(
            "how many GPUs is the configuration for",
            location="--gpus",
            hint="for example `gptplan check FILE --gpus 8`",
        )
    if options.fix and options.as_plan:
        raise usage_error("--fix and --as-plan cannot be used together", location="--fix", hint="run `--fix` first")
    check_count(options.gpus, "--gpus", MAX_DEVICES, "--gpus 96")
    hardware = load_spec(options.gpu, HardwareSpec)
    per_node = options.gpus_per_node if options.gpus_per_node is not None else hardware.devices_per_node
    check_count(per_node, "--gpus-per-node", MAX_DEVICES, "--gpus-per-node 8")
    for value, option in ((options.global_batch, "--global-batch"), (options.seq_len, "--seq-len")):
        if value is not None:
            check_count(value, option, 10**6, f"{option} 1024")
    return Asked(
        gpus=options.gpus, hardware=hardware, devices_per_node=per_node, global_batch=options.global_batch,
        model=load_spec(options.model, ModelSpec) if options.model is not None else None, seq_len=options.seq_len,
        reserve=parse_reserve(options.reserve, hardware) if options.reserve is not None else None,
    )  # fmt: skip


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
        yield Diagnostic(rule="CFG005", severity="note", message=message, location=checked.source.shown)
        return
    best = checked.best.plan if checked.best is not None else None
    yield Diagnostic(
        rule="CFG010", severity="note", message=check_view.comparison(checked), location=checked.source.shown,
        values={
            "slower": checked.slower, "best_layout": to_builtins(best.layout) if best else None,
            "best_step_s": best.predicted.step_s if best else None,
        },
    )  # fmt: skip


def _fix(path: Path, text: str, asked: Asked, options: CheckOptions) -> int:
    target = options.output or path.with_name(f"{path.stem}.fixed{path.suffix}")
    fixed, changes = fix_text(text, str(path), asked)
    # The language follows the name that was checked, whatever the new file is called.
    checked = check_text(fixed, str(path), asked)
    valid = all(one.valid for one in checked)
    if valid and changes:
        write_bytes(byte_order_mark(path) + fixed.encode(), target)
    if options.as_json:
        print_json(
            _document(checked) | {"changes": _changes(changes), "file": str(target) if changes and valid else None}
        )
    elif not valid:
        for one in checked:
            if not one.valid:
                check_view.print_checked(one)
        sys.stdout.write(f"{path}: nothing was written: these findings need values that only you know\n")
    elif changes:
        sys.stdout.write(f"{listed_changes(changes)}\n{target}: {check_view.verdict(checked[0])}\n")
    else:
        sys.stdout.write(f"{path}: nothing to fix\n")
    return ExitCode.OK if valid else ExitCode.NEGATIVE


def _changes(changes: list[Change]) -> list[dict[str, Any]]:
    return [{"line": c.line, "key": c.key, "before": c.before, "after": c.after} for c in changes]


def _write_plan(path: Path, checked: list[Checked], options: CheckOptions) -> int:
    if len(checked) > 1:
        raise usage_error(
            f"this file has {len(checked)} configurations, and a plan holds one layout", location=str(path),
            hint="leave one of them in the file",
        )  # fmt: skip
    target = options.output or Path("plans") / f"{path.stem}.plan"
    if not checked[0].valid or checked[0].misfits:
        check_view.print_checked(checked[0])
        return ExitCode.NEGATIVE
    plan = by_hand(checked[0])
    write_plan(plan, target)
    if options.as_json:
        print_json(_document(checked) | {"plan_file": str(target)})
    else:
        check_view.print_checked(checked[0])
        sys.stdout.write(f"\nplan: {target}\n")
    return ExitCode.OK


def _check_folder(folder: Path, options: CheckOptions) -> int:
    if options.fix or options.as_plan:
        raise usage_error("--fix and --as-plan take one file", location=str(folder), hint="name a file of the folder")
    asked = _asked(options)
    code, documents = int(ExitCode.OK), []
    for path in _files(folder):
        checked, refused = _check_one(path, asked)
        if not checked and not refused:
            continue
        code = max(code, ExitCode.NEGATIVE if refused else _exit_code(checked))
        document = _document(checked) if checked else _refusal(refused)
        documents.append({"file": str(path), **document})
        if not options.as_json:
            sys.stdout.write(check_view.folder_line(path, checked, refused) + "\n")
    if not documents:
        raise usage_error(
            "there is no configuration in this folder", location=str(folder),
            hint="gptplan reads Python, JSON, TOML, YAML and shell files",
        )  # fmt: skip
    if options.as_json:
        print_json({"files": documents})
    return code


def _refusal(refused: tuple[Diagnostic, ...]) -> dict[str, Any]:
    return {"valid": False, "fits": False, "diagnostics": to_builtins(refused), "layout": None, "predicted": None}


def _files(folder: Path) -> list[Path]:
    """Files of a folder and the folders in it, hidden ones and links to folders left out, by name."""
    found: list[Path] = []
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        for path in sorted(here.iterdir(), reverse=True):
            if path.name.startswith("."):
                continue
            if path.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(path)
        if len(found) > MAX_FILES:
            raise usage_error(
                f"there are more than {MAX_FILES} files in this folder", location=str(folder), hint="name a smaller one"
            )
    return sorted(found)


def _check_one(path: Path, asked: Asked) -> tuple[list[Checked], tuple[Diagnostic, ...]]:
    """The judgement of a file of a folder; neither where it configures nothing."""
    shown = str(path)
    try:
        text = read_text(path, shown)
        if is_plan(text):
            return [], ()
        return check_text(text, shown, asked, compare=False), ()
    except PlanError as error:
        if error.diagnostics[0].rule == "CFG008":
            return [], ()
        return [], error.diagnostics
    except OSError as error:
        return [], (Diagnostic(rule="CFG007", message=f"cannot read the file: {error.strerror}", location=shown),)
