"""``solve``: find the best layout and write it to a plan file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from planner.cli.parameters import Force, Json, print_json
from planner.diagnostics import ExitCode, PlanError, render, usage_error
from planner.handover.options import Option, Range
from planner.layouts.problem import Problem
from planner.outputs import STDOUT, check_output, say
from planner.plans.question import Question, build_problem, plan_name
from planner.specs.files import to_builtins

if TYPE_CHECKING:
    from planner.plans.plan import Plan
    from planner.solver.answer import Answer, LeastDevices

MOST_DIFFERENCES = 8
SEARCH_TIME = Range(least=0, above=True, most=float("inf"), wanted="above 0 seconds", example="10")


class Solve(Question, frozen=True, kw_only=True):
    """The options of ``solve``."""

    time_limit_s: Annotated[
        float | None, Option("Seconds the search may take. [default: none]", ("--time-limit",), range=SEARCH_TIME)
    ] = None
    top: Annotated[int, Option("How many choices to list, each by its best layout.", range=Range(example="5"))] = 1
    min_gpus: Annotated[bool, Option("Find the least number of GPUs that the model fits on, at most --gpus.")] = False
    output: Annotated[Path | None, Option("Plan file. [default: plans/MODEL-NxGPU.plan]", ("-o", "--output"))] = None
    force: Force = False
    as_json: Json = False


def solve(options: Solve) -> int:
    """Find the best layout and write it to a plan file."""
    from planner.plans.plan import holds_found_plan, write_plan

    problem = build_problem(options)
    if options.output is not None:
        check_output(options.output, what="plan", ours=holds_found_plan, force=options.force)
    try:
        answer, least = _search(problem, options)
    except KeyboardInterrupt:
        say("interrupted before a layout was found; no plan was written")
        return ExitCode.INTERRUPTED
    if answer.plan is None:
        _print(answer, least, None, options)
        return ExitCode.NEGATIVE
    path = options.output or _default_path(answer.plan.problem)
    try:
        if options.output is None and not options.force:
            _check_question(answer.plan, path)
        write_plan(answer.plan, path, force=options.force, ours=holds_found_plan)
    except PlanError as error:
        if options.as_json:
            error.answer = _document(answer, least, None)
        else:
            _print(answer, least, None, options)  # before it is lost
        raise
    if path != STDOUT:
        _print(answer, least, path, options)
    return ExitCode.OK


def _check_question(plan: "Plan", path: Path) -> None:
    """Refuse to replace a plan in its default place that answers another question.

    Raises:
        PlanError: it does, and the message says what differs.
    """
    from planner.plans.comparison import compare
    from planner.plans.plan import read_plan

    try:
        before = read_plan(path)
    except PlanError:
        return  # nothing, or nothing that can be read; what is no plan is not replaced anyway
    found = compare(before, plan)
    other = [f"{one.field} {one.first} there, {one.second} here" for one in (*found.question, *found.specs)]
    if other:
        raise usage_error(
            "the plan in this place answers another question",
            location=str(path),
            hint="name another file with `-o`, or add `--force` to replace that plan",
            detail="\n".join(other[:MOST_DIFFERENCES]),
        )


def _default_path(problem: Problem) -> Path:
    return Path("plans") / plan_name(problem)


def _search(problem: Problem, options: Solve) -> tuple["Answer", "LeastDevices | None"]:
    from planner import solver

    if options.min_gpus:
        return solver.solve_least_devices(problem, time_limit_s=options.time_limit_s, top=options.top)
    return solver.solve(problem, time_limit_s=options.time_limit_s, top=options.top), None


def _print(answer: "Answer", least: "LeastDevices | None", path: Path | None, options: Solve) -> None:
    from planner.views import answer as answer_view
    from planner.views.terminal import print_content
    from planner.views.why_not import reasons_of

    if options.as_json:
        print_json(_document(answer, least, path))
        return
    if least is not None:
        to = say if answer.plan is None else print_content
        to(f"{answer_view.least_devices_text(least)}\n")
    if answer.plan is not None:
        print_content(*answer_view.found(answer, answer.plan, path))
        return
    space = answer.space
    say(f"{answer.status}: of {space.layouts:,} layouts {space.valid:,} are valid and {space.fit:,} fit\n")
    say("\n\n".join(render(reason) for reason in reasons_of(answer)))


def _document(answer: "Answer", least: "LeastDevices | None", path: Path | None) -> dict[str, Any]:
    from planner.views.caveats import caveats
    from planner.views.why_not import reasons_of

    fields = to_builtins(msgspec.structs.replace(answer, refusal=None))
    # In the place of the answer's own account of it, which is no data.
    document = {{"refusal": "reasons"}.get(name, name): value for name, value in fields.items()}
    document |= {"reasons": to_builtins(reasons_of(answer)), "plan_file": None if path is None else str(path)}
    document["warnings"] = [] if answer.plan is None else to_builtins(caveats(answer.plan))
    return document if least is None else document | {"min_gpus": to_builtins(least)}
