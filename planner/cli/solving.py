"""``solve``: find the best layout and write it to a plan file."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from planner.cli.output import print_json
from planner.diagnostics import ExitCode, PlanError, render, usage_error
from planner.layouts.problem import Problem
from planner.plans.plan import Plan, write_plan
from planner.plans.question import Question, build_problem, plan_name
from planner.solver import solve as find_best
from planner.solver import solve_least_devices as find_least
from planner.solver.answer import Answer, LeastDevices
from planner.specs.files import to_builtins
from planner.views import explain as tables
from planner.views.why_not import reasons_of


@dataclass(frozen=True, kw_only=True)
class SolveOptions:
    """How to search and where to put the answer."""

    time_limit_s: float | None = None
    top: int = 1
    min_gpus: bool = False
    output: Path | None = None
    as_json: bool = False


def solve(asked: Question, options: SolveOptions) -> int:
    """Solve, write the plan and print the answer."""
    check_search_options(options.time_limit_s, options.top)
    problem = build_problem(asked)
    _check_path(options.output or _default_path(problem))
    try:
        answer, least = _search(problem, options)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted before a layout was found; no plan was written\n")
        return ExitCode.INTERRUPTED
    path = None
    if answer.plan is not None:
        path = options.output or _default_path(answer.plan.problem)
        _write(answer, answer.plan, least, path, options)
    if options.as_json:
        print_json(_answer_document(answer, least, path))
    else:
        _print(answer, least, path)
    return ExitCode.OK if answer.plan is not None else ExitCode.NEGATIVE


def _write(answer: Answer, plan: Plan, least: LeastDevices | None, path: Path, options: SolveOptions) -> None:
    """Write the plan; where that fails, print the answer before it is lost."""
    try:
        write_plan(plan, path)
    except PlanError:
        if options.as_json:
            print_json(_answer_document(answer, least, None))
        else:
            _print(answer, least, None)
        raise


def _default_path(problem: Problem) -> Path:
    return Path("plans") / plan_name(problem)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise usage_error("this is a folder, not a plan file", location=str(path), hint="name a file with `-o`")


def check_search_options(time_limit_s: float | None, top: int = 1) -> None:
    """Refuse a search that can find nothing.

    Raises:
        PlanError: no time, or no layout to report.
    """
    if top < 1:
        raise usage_error(f"--top has to be at least 1, and it is {top}", location="--top", hint="use `--top 5`")
    if time_limit_s is not None and not time_limit_s > 0:
        raise usage_error(
            f"--time-limit has to be above 0 seconds, and it is {time_limit_s:g}",
            location="--time-limit",
            hint="use `--time-limit 10`",
        )


def _search(problem: Problem, options: SolveOptions) -> tuple[Answer, LeastDevices | None]:
    if options.min_gpus:
        return find_least(problem, time_limit_s=options.time_limit_s, top=options.top)
    return find_best(problem, time_limit_s=options.time_limit_s, top=options.top), None


def _answer_document(answer: Answer, least: LeastDevices | None, path: Path | None) -> dict[str, Any]:
    fields = to_builtins(msgspec.structs.replace(answer, refusal=None))
    # In the place of the answer's own account of it, which is no data.
    document = {{"refusal": "reasons"}.get(name, name): value for name, value in fields.items()}
    document["reasons"] = to_builtins(reasons_of(answer))
    document["plan_file"] = None if path is None else str(path)
    if least is not None:
        document["min_gpus"] = to_builtins(least)
    return document


def _print(answer: Answer, least: LeastDevices | None, path: Path | None) -> None:
    if answer.plan is not None:
        if least is not None:
            sys.stdout.write(tables.least_devices_text(least) + "\n\n")
        tables.print_answer(answer, answer.plan, path)
        return
    if least is not None:
        sys.stderr.write(tables.least_devices_text(least) + "\n\n")
    _print_reasons(answer)


def _print_reasons(answer: Answer) -> None:
    space = answer.space
    sys.stderr.write(
        f"{answer.status}: of {space.layouts:,} layouts {space.valid:,} are valid and {space.fit:,} fit\n\n"
    )
    sys.stderr.write("\n\n".join(render(reason) for reason in reasons_of(answer)) + "\n")
