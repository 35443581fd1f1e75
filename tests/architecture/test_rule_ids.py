"""Who needs a kind of rule asks what rules are about: an id stands where its rule is defined, and hardly elsewhere."""

import ast
from pathlib import Path

from planner.lint.registry import CONFIG_RULES
from planner.rules import ALL_RULES

ROOT = Path(__file__).parents[2]
IDS = [rule.id for rule in (*ALL_RULES, *CONFIG_RULES)]
DEFINED = ("planner/rules/", "planner/lint/dialects/")
"""Where rules are defined, and where a dialect lists the general rules that it replaces."""
MOST_ELSEWHERE = 10
LEFT_IN_LINT = {
    "planner/lint/draft.py": 3,
    "planner/lint/judging.py": 5,
    "planner/lint/repair.py": 13,
    "planner/lint/steps.py": 1,
}
"""Ids that are still to become questions. These numbers only fall, and the table goes with the last of them."""


def ids_in(path: Path) -> int:
    """String literals of a module that are the id of a rule and nothing else."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    literals = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return sum(isinstance(value, str) and value in IDS for value in literals)


def test_ids_of_rules_are_not_repeated() -> None:
    paths = [path for room in ("planner", "runtime") for path in sorted((ROOT / room).rglob("*.py"))]
    named = {path.relative_to(ROOT).as_posix(): ids_in(path) for path in paths}
    elsewhere = {name: count for name, count in named.items() if count and not name.startswith(DEFINED)}
    assert all(elsewhere.get(name, 0) <= most for name, most in LEFT_IN_LINT.items()), elsewhere
    others = {name: count for name, count in elsewhere.items() if name not in LEFT_IN_LINT}
    assert sum(others.values()) <= MOST_ELSEWHERE, others


def test_every_rule_has_one_definition() -> None:
    assert sorted(IDS) == sorted(set(IDS))
