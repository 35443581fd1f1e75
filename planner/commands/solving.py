"""``solve``: find the best layout and write it to a plan file."""

import sys
from pathlib import Path
from typing import Any

from planner import explain as tables
from planner.answer import Answer
from planner.commands.output import print_json
from planner.diagnostics import ExitCode, render, usage_error
from planner.plan import write_plan
from planner.question import Question, build_problem, plan_name
from planner.solver import solve as find_best
from planner.spec_files import to_builtins


def solve(asked: Question, *, time_limit_s: float | None, top: int, output: Path | None, as_json: bool) -> int:
    """Solve, write the plan and print the answer."""
    if top < 1:
        raise usage_error(f"--top has to be at least 1, and it is {top}", location="--top", hint="use `--top 5`")
    if time_limit_s is not None and time_limit_s <= 0:
        raise usage_error(
            f"--time-limit has to be above 0 seconds, and it is {time_limit_s:g}", location="--time-limit",
            hint="use `--time-limit 10`",
        )  # fmt: skip
    problem = build_problem(asked)
    path = output or Path("plans") / plan_name(problem)
    if path.is_dir():
        raise usage_error("this is a folder, not a plan file", location=str(path), hint="name a file with `-o`")
    answer = find_best(problem, time_limit_s=time_limit_s, top=top)
    if answer.plan is not None:
        write_plan(answer.plan, path)
    if as_json:
        print_json(_answer_document(answer, path))
    elif answer.plan is not None:
        tables.print_answer(answer, answer.plan, path)
    else:
        _print_reasons(answer)
    return ExitCode.OK if answer.plan is not None else ExitCode.NEGATIVE


def _answer_document(answer: Answer, path: Path) -> dict[str, Any]:
    document: dict[str, Any] = to_builtins(answer)
    document["plan_file"] = str(path) if answer.plan is not None else None
    return document


def _print_reasons(answer: Answer) -> None:
    space = answer.space
    sys.stderr.write(
        f"{answer.status}: of {space.layouts:,} layouts {space.valid:,} are valid and {space.fit:,} fit\n\n"
    )
    sys.stderr.write("\n\n".join(render(reason) for reason in answer.reasons) + "\n")
