"""Writes docs/rules.md from the rule table: ``python -m docs.rules_page``."""

import re
from pathlib import Path

from planner.rules import EVERY_RULE, RuleText

PAGE = Path(__file__).with_name("rules.md")

_HEAD = """\
# Rules

A layout is valid when it keeps all of these. The solver, `gptplan check` and `gptplan explain RULE` read the
same table, in `planner/rules/`. Words in braces stand for the numbers of the layout in question.

This page is written by `make docs`; do not edit it.
"""


def rules_page() -> str:
    """The whole page."""
    contents = "\n".join(f"- [{rule.id}](#{rule.id.lower()}) {rule.title}" for rule in EVERY_RULE)
    return "\n".join([_HEAD, contents, *(_section(rule) for rule in EVERY_RULE)])


def _section(rule: RuleText) -> str:
    decided_by = "the cost model" if rule.holds is None and rule.holds_layout is None else "the layout alone"
    rows = {
        "Field": f"`{rule.field}`",
        "Decided by": decided_by,
        "Message": _code(rule.message),
        "Hint": rule.hint if "`" in rule.hint else _code(rule.hint),
        "Source": rule.source,
    }
    lines = "\n".join(f"- {name}: {text}" for name, text in rows.items() if text)
    return f"\n## {rule.id}\n\n{_sentence(rule.title)}. {rule.why}\n\n{lines}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _sentence(text: str) -> str:
    # Only a plain first word: names such as ZeRO keep their spelling.
    return re.sub(r"^[a-z]", lambda first: first[0].upper(), text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(rules_page() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
