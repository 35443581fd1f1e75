"""``check``: plans, hand-written configurations and folders of them."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cli import reading
from planner.cli.folders import document_of, exit_code, files_of, judged_file
from planner.cli.freezing import by_hand, described
from planner.cli.output import print_json
from planner.diagnostics import ExitCode, usage_error
from planner.layouts.problem import MAX_DEVICES
from planner.lint.check import Checked, check_text, fix_text
from planner.lint.draft import Asked
from planner.lint.files import byte_order_mark, is_plan, read_text
from planner.lint.fixing import listed_changes
from planner.lint.steps import Change
from planner.plans.plan import write_bytes, write_plan
from planner.plans.question import check_count, parse_reserve
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec
from planner.views import check as check_view


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
        print_json(document_of(checked))
    else:
        for number, one in enumerate(checked):
            sys.stdout.write("\n" if number else "")
            check_view.print_checked(one)
    return exit_code(checked)


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
        gpus=options.gpus,
        hardware=hardware,
        devices_per_node=per_node,
        global_batch=options.global_batch,
        model=load_spec(options.model, ModelSpec) if options.model is not None else None,
        seq_len=options.seq_len,
        reserve=parse_reserve(options.reserve, hardware) if options.reserve is not None else None,
    )


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
            document_of(checked) | {"changes": _changes(changes), "file": str(target) if changes and valid else None}
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
            f"this file has {len(checked)} configurations, and a plan holds one layout",
            location=str(path),
            hint="leave one of them in the file",
        )
    target = options.output or Path("plans") / f"{path.stem}.plan"
    if not checked[0].valid or checked[0].misfits:
        if options.as_json:
            print_json(document_of(checked) | {"plan_file": None})
        else:
            check_view.print_checked(checked[0])
        return ExitCode.NEGATIVE
    plan = by_hand(checked[0])
    write_plan(plan, target)
    if options.as_json:
        print_json(document_of(checked) | {"plan_file": str(target)})
    else:
        check_view.print_checked(checked[0])
        sys.stdout.write(f"\n{described(plan, checked[0], target)}\n")
    return ExitCode.OK


def _check_folder(folder: Path, options: CheckOptions) -> int:
    if options.fix or options.as_plan:
        raise usage_error("--fix and --as-plan take one file", location=str(folder), hint="name a file of the folder")
    asked = _asked(options)
    code, documents = int(ExitCode.OK), []
    for path in files_of(folder):
        one = judged_file(path, asked)
        if one is None:
            continue
        code = max(code, one.code)
        documents.append({"file": str(path), **one.document})
        if not options.as_json:
            sys.stdout.write(one.line + "\n")
    if not documents:
        raise usage_error(
            "there is no configuration in this folder",
            location=str(folder),
            hint="gptplan reads Python, JSON, TOML, YAML and shell files, and plans",
        )
    if options.as_json:
        print_json({"files": documents})
    return code
