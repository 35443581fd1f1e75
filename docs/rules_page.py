"""Writes docs/rules.md from the rule table: ``python -m docs.rules_page``."""

import re
from pathlib import Path

from planner.lint.config_rule import ConfigRule
from planner.lint.registry import EVERY_RULE
from planner.rules import Rule, RuleText

PAGE = Path(__file__).with_name("rules.md")

_HEAD = """\
# Rules

A layout is valid when it keeps all of the first ones. The solver, `gptplan check` and `gptplan explain RULE` read
the same table, in `planner/rules/`. Those from OLD001 on are about the keys of hand-written configurations: what
each framework refuses before the first step, or accepts and does not do. Words in braces stand for the numbers of
the layout or the file in question.

This page is written by `make docs`; do not edit it.
"""


def rules_page() -> str:
    """The whole page."""
    contents = "\n".join(f"- [{rule.id}](#{rule.id.lower()}) {rule.title}" for rule in EVERY_RULE)
    return "\n".join([_HEAD, contents, *(_section(rule) for rule in EVERY_RULE)])


def _section(rule: RuleText) -> str:
    rows = {
        "Field": f"`{rule.field}`",
        "Decided by": _decided_by(rule),
        "Message": _code(rule.message),
        "Hint": rule.hint if "`" in rule.hint else _code(rule.hint),
        "Source": rule.source,
    }
    lines = "\n".join(f"- {name}: {text}" for name, text in rows.items() if text)
    return f"\n## {rule.id}\n\n{_sentence(rule.title)}. {rule.why}\n\n{lines}"


def _decided_by(rule: RuleText) -> str:
    if isinstance(rule, ConfigRule):
        warns = ", as a warning" if rule.severity == "warning" else ""
        return f"the keys of a file for {' or '.join(rule.dialects)}{warns}"
    judged = isinstance(rule, Rule) and (rule.holds is not None or rule.holds_layout is not None)
    return "the layout alone" if judged else "the cost model"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _sentence(text: str) -> str:
    # Only a plain first word: names such as ZeRO keep their spelling.
    return re.sub(r"^[a-z](?=[a-z]*(?: |$))", lambda first: first[0].upper(), text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(rules_page() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
