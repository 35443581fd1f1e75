"""Every code of a message can be explained."""

import re
from pathlib import Path

from planner.codes import CODES
from planner.lint.registry import EVERY_RULE

ROOT = Path(__file__).parents[3]


def test_every_code_in_the_source_is_a_rule_or_explained() -> None:
    sources = [path for folder in ("planner", "runtime") for path in (ROOT / folder).rglob("*.py")]
    used = {code for path in sources for code in re.findall(r'"((?:[A-Z]{2,5}\d{3})|USAGE|BUG)"', path.read_text())}
    known = {rule.id for rule in EVERY_RULE} | CODES.keys()
    assert used
    assert used <= known, used - known


def test_no_code_is_both_a_rule_and_explained_elsewhere() -> None:
    assert not CODES.keys() & {rule.id for rule in EVERY_RULE}
