"""``check``: plans, hand-written configurations and folders of them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from planner.cli.parameters import Json, print_json
from planner.diagnostics import ExitCode, usage_error
from planner.handover.options import Option, Range
from planner.plans import question
from planner.plans.question import parse_reserve
from planner.specs import HardwareSpec, ModelSpec
from planner.specs.files import load_spec

if TYPE_CHECKING:
    from planner.lint.check import Checked
    from planner.lint.draft import Asked

COUNT = Range(most=10**6, example="1024")


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``check``."""

    config: Annotated[
        Path, Option("A plan, a hand-written configuration, or a folder of them.", metavar="CONFIG", is_argument=True)
    ]
    gpus: Annotated[int | None, Option("How many GPUs it is for. A plan says so itself.", range=question.GPUS)] = None
    gpu: question.Gpu = "a100-40g"
    model: Annotated[
        str | None, Option("Built-in model or a TOML file. [default: what the file names]", known=question.MODEL_NAMES)
    ] = None
    gpus_per_node: question.GpusPerNode = None
    global_batch: Annotated[int | None, Option("Sequences a step, where the file does not say.", range=COUNT)] = None
    seq_len: Annotated[int | None, Option("Tokens a sequence, where the file does not say.", range=COUNT)] = None
    reserve: question.ReserveText = None
    fix: Annotated[bool, Option("Write the nearest valid configuration.")] = False
    as_plan: Annotated[bool, Option("Freeze the layout in a plan that `run` executes.")] = False
    output: Annotated[
        Path | None,
        Option("Where --fix or --as-plan writes. [default: FILE.fixed.*, plans/FILE.plan]", ("-o", "--output")),
    ] = None
    as_json: Json = False


def check(options: Check) -> int:
    """Say rule by rule what is wrong with a configuration, without running it, and whether it fits."""
    from planner.cli.folders import check_folder, check_plan, document_of, exit_code
    from planner.lint.check import check_text
    from planner.lint.files import is_plan, read_text
    from planner.views import check as check_view
    from planner.views.terminal import print_content

    path = options.config
    if path.is_dir():
        if options.fix or options.as_plan:
            raise usage_error("--fix and --as-plan take one file", location=str(path), hint="name a file of the folder")
        return check_folder(path, _asked(options), as_json=options.as_json)
    if path.suffix == ".plan" or is_plan(text := read_text(path, str(path))):
        return check_plan(path, as_json=options.as_json)
    asked = _asked(options)
    if options.fix:
        return _fix(text, asked, options)
    checked = check_text(text, str(path), asked)
    if options.as_plan:
        return _write_plan(checked, options)
    if options.as_json:
        print_json(document_of(checked))
    else:
        for number, one in enumerate(checked):
            sys.stdout.write("\n" if number else "")
            print_content(*check_view.judgement(one))
    return exit_code(checked)


def _asked(options: Check) -> "Asked":
    from planner.lint.draft import Asked

    if options.gpus is None:
        raise usage_error(
            "how many GPUs is the configuration for",
            location="--gpus",
            hint="for example `gptplan check FILE --gpus 8`",
        )
    if options.fix and options.as_plan:
        raise usage_error("--fix and --as-plan cannot be used together", location="--fix", hint="run `--fix` first")
    hardware = load_spec(options.gpu, HardwareSpec)
    per_node = options.gpus_per_node or hardware.devices_per_node
    question.GPUS_PER_NODE.check("--gpus-per-node", per_node)
    return Asked(
        gpus=options.gpus,
        hardware=hardware,
        devices_per_node=per_node,
        global_batch=options.global_batch,
        model=load_spec(options.model, ModelSpec) if options.model is not None else None,
        seq_len=options.seq_len,
        reserve=parse_reserve(options.reserve, hardware) if options.reserve is not None else None,
    )


def _fix(text: str, asked: "Asked", options: Check) -> int:
    from planner.cli.folders import document_of
    from planner.lint.check import check_text, fix_text
    from planner.lint.files import byte_order_mark
    from planner.lint.fixing import listed_changes
    from planner.plans.plan import write_bytes
    from planner.views import check as check_view
    from planner.views.terminal import print_content

    path = options.config
    target = options.output or path.with_name(f"{path.stem}.fixed{path.suffix}")
    fixed, changes = fix_text(text, str(path), asked)
    # The language follows the name that was checked, whatever the new file is called.
    checked = check_text(fixed, str(path), asked)
    valid = all(one.valid for one in checked)
    if valid and changes:
        write_bytes(byte_order_mark(path) + fixed.encode(), target)
    if options.as_json:
        file = str(target) if changes and valid else None
        print_json(document_of(checked) | {"changes": msgspec.to_builtins(changes), "file": file})
    elif not valid:
        for one in checked:
            if not one.valid:
                print_content(*check_view.judgement(one))
        sys.stdout.write(f"{path}: nothing was written: these findings need values that only you know\n")
    elif changes:
        sys.stdout.write(f"{listed_changes(changes)}\n{target}: {check_view.verdict(checked[0])}\n")
    else:
        sys.stdout.write(f"{path}: nothing to fix\n")
    return ExitCode.OK if valid else ExitCode.NEGATIVE


def _write_plan(checked: "list[Checked]", options: Check) -> int:
    from planner.cli.folders import document_of
    from planner.lint.freezing import by_hand
    from planner.plans.plan import write_plan
    from planner.views import check as check_view
    from planner.views.terminal import print_content

    path, first = options.config, checked[0]
    if len(checked) > 1:
        raise usage_error(
            f"this file has {len(checked)} configurations, and a plan holds one layout",
            location=str(path),
            hint="leave one of them in the file",
        )
    target, plan = options.output or Path("plans") / f"{path.stem}.plan", None
    if first.valid and not first.misfits:
        plan = by_hand(first)
        write_plan(plan, target)
    if options.as_json:
        print_json(document_of(checked) | {"plan_file": str(target) if plan else None})
    else:
        print_content(*check_view.judgement(first))
    if plan is None:
        return ExitCode.NEGATIVE
    if not options.as_json:
        stack, problem = plan.problem.stack, first.judged.problem
        other = "" if problem and problem.stack.name == stack.name else f", for stack {stack.name} {stack.version}"
        sys.stdout.write(f"\nplan: {target}{other}\n")
    return ExitCode.OK
