"""The committed plans are what the solver answers today.

Where a change of a formula or a spec is meant to change them, write them again with the command in
the failing test's id.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.plan import canonical_json, read_plan
from planner.question import Question, build_problem, plan_name
from planner.solver import solve

PLANS = Path(__file__).parent.parent.parent / "plans"

QUESTIONS = {
    "solve --model gpt3 --gpus 96": Question(model="gpt3", gpus=96),
    "solve --model gpt3 --gpus 1024": Question(model="gpt3", gpus=1024),
    "solve --model gpt2-tiny --gpu local-cpu --gpus 2": Question(model="gpt2-tiny", gpus=2, gpu="local-cpu"),
}


def comparable(encoded: bytes) -> dict[str, Any]:
    """A plan's fields less the version of OR-Tools and the digest that covers it.

    Floats are rounded to ten digits: processors differ in the last ones of a logarithm.
    """
    fields: dict[str, Any] = _rounded(msgspec.json.decode(encoded))
    del fields["evidence"]["ortools_version"], fields["digest"]
    return fields


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


@pytest.mark.parametrize("command", QUESTIONS)
def test_a_committed_plan_is_still_the_answer(command: str) -> None:
    problem = build_problem(QUESTIONS[command])
    committed = PLANS / plan_name(problem)
    read_plan(committed)
    answer = solve(problem)
    assert answer.plan is not None
    assert comparable(canonical_json(answer.plan)) == comparable(committed.read_bytes())


def test_every_committed_plan_is_tested() -> None:
    names = {plan_name(build_problem(question)) for question in QUESTIONS.values()}
    assert {path.name for path in PLANS.glob("*.plan")} == names
