"""The rule table: which layouts are valid, declared once and read by everyone who asks."""

import numpy as np
from numpy.typing import NDArray

from planner.diagnostics import Diagnostic
from planner.layouts.layout import Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.rules import capacity, choices, experts, family, grid, pipeline, sequence, stack, states, tensor
from planner.rules.rule import About, Rule, RuleText

RULES: tuple[Rule, ...] = (
    *states.DEVICE_RULES,
    *states.PRECISION_RULES,
    *tensor.RULES,
    *grid.RULES,
    *sequence.RULES,
    *pipeline.RULES,
    *states.STATE_RULES,
    *stack.RULES,
    *family.RULES,
    *experts.RULES,
    *choices.RULES,
)
"""Rules that a layout alone decides."""

ALL_RULES: tuple[Rule, ...] = (*RULES, *capacity.RULES)
"""Those and the ones that the cost model decides."""

__all__ = ["ALL_RULES", "RULES", "Rule", "RuleText", "ids_about", "rule_about", "screen", "violations"]


def ids_about(word: About) -> frozenset[str]:
    """Ids of the rules that are about something."""
    return frozenset(rule.id for rule in ALL_RULES if word in rule.about)


def rule_about(word: About) -> Rule:
    """The one rule that is about something.

    Raises:
        ValueError: there is none, or several.
    """
    (rule,) = (rule for rule in ALL_RULES if word in rule.about)
    return rule


def screen(problem: Problem, columns: LayoutColumns) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Which layouts keep every rule, and how many each rule rejects (a layout may break several)."""
    valid = np.ones(len(columns), dtype=bool)
    rejected = {}
    for rule in RULES:
        if rule.holds is None:
            continue
        holds = rule.holds(problem, columns)
        valid &= holds
        if not holds.all():
            rejected[rule.id] = int(np.count_nonzero(~holds))
    return valid, rejected


def violations(problem: Problem, layout: Layout) -> list[Diagnostic]:
    """Every rule that one whole layout breaks, in the order of the table."""
    columns = columns_of(layout)
    return [rule.diagnose(problem, layout) for rule in RULES if not rule.holds_for(problem, layout, columns)]
