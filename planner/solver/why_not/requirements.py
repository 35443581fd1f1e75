"""The requirements that can stand in each other's way, in the order in which a conflict names them.

What the user typed comes first, as it can be typed differently: the number of GPUs, pins, forbidden
values. The other rules follow in the order of their table, and the memories come last: a layout that is
not valid fails for certain, one that does not fit fails by a prediction.
"""

from dataclasses import dataclass

import numpy as np

from planner.layouts.layout import LayoutColumns
from planner.layouts.pins import listed_number, listed_recompute, matches, may_match
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.rules import ALL_RULES, RULES, Rule, capacity, rule_about

COUNT, PIN, FORBID = (rule_about(word).id for word in ("count", "pin", "forbid"))
EVEN_STAGES = rule_about("even-stages").id


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Something that a layout has to keep; ``field`` and ``value`` are those of a pin or a forbid."""

    rule: str
    field: str = ""
    value: str = ""


MEMORIES = tuple(Requirement(rule=rule.id) for rule in capacity.RULES)
"""Kept or broken by a division of the layers, not by a layout's columns."""


def rule_of(requirement: Requirement) -> Rule:
    """The entry of the rule table."""
    return next(rule for rule in ALL_RULES if rule.id == requirement.rule)


def requirements(problem: Problem) -> tuple[Requirement, ...]:
    """All requirements of a problem, in the order in which a conflict names them."""
    pins = [Requirement(rule=PIN, field=field, value=value) for field, value in problem.pins.items()]
    forbids = [
        Requirement(rule=FORBID, field=field, value=value)
        for field, values in problem.forbids.items()
        for value in dict.fromkeys(values)
    ]
    rules = [Requirement(rule=rule.id) for rule in RULES if rule.id not in (COUNT, PIN, FORBID)]
    return (Requirement(rule=COUNT), *pins, *forbids, *rules, *MEMORIES)


def has_pinned(columns: LayoutColumns, field: str, value: str) -> Booleans:
    """Where layouts of a search have a pinned value; what may recompute anything does not have a list."""
    matching = matches(columns, field, value)
    listed = listed_recompute({field: value})
    return matching if listed is None else matching & (columns.recompute == listed_number(listed))


def holds(problem: Problem, requirement: Requirement, columns: LayoutColumns) -> Booleans:
    """Where columns keep a requirement; true everywhere for what a division of the layers decides."""
    if requirement.rule == PIN:
        return has_pinned(columns, requirement.field, requirement.value)
    if requirement.rule == FORBID:
        return ~may_match(columns, requirement.field, requirement.value)
    rule = rule_of(requirement)
    return np.ones(len(columns), dtype=bool) if rule.holds is None else rule.holds(problem, columns)
