"""Solves the questions in questions.toml again and writes their plans: ``python -m plans.make [NAME ...]``."""

import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.diagnostics import render
from planner.handover.options import declared
from planner.plans.plan import Plan, write_plan
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.views.why_not import reasons_of

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Asked:
    """A plan of this folder: the question that it answers, and the row of a table that the question is."""

    question: Question
    row: str = ""
    note: str = ""
    """Where the plan is not what the row prints."""


def asked() -> dict[str, Asked]:
    """The plans of this folder, by the names of their files."""
    with (FOLDER / "questions.toml").open("rb") as file:
        tables = tomllib.load(file)
    return {
        name: Asked(row=fields.pop("row", ""), note=fields.pop("note", ""), question=Question(**fields))
        for name, fields in tables.items()
    }


def path_of(name: str) -> Path:
    """The file of the plan."""
    return FOLDER / f"{name}.plan"


def command(name: str, question: Question) -> str:
    """The command that makes the same plan."""
    return shlex.join(["gptplan", "solve", *_options(question), "-o", f"plans/{name}.plan"])


def _options(question: Question) -> Iterator[str]:
    for option in declared(Question):
        value = getattr(question, option.field)
        if value != option.default:
            for one in value if isinstance(value, list) else [value]:
                yield from (option.names[-1], str(one))


def solved(question: Question) -> Plan:
    """The plan that the question has today.

    Raises:
        SystemExit: it has none; with the reasons.
    """
    answer = solve(build_problem(question))
    if answer.plan is None:
        raise SystemExit("\n".join(map(render, reasons_of(answer))))
    return answer.plan


def main(names: list[str]) -> None:
    """Write the plans of these names, or all."""
    known = asked()
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"questions.toml has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    for name in dict.fromkeys(names or known):
        write_plan(solved(known[name].question), path_of(name))


if __name__ == "__main__":
    main(sys.argv[1:])
