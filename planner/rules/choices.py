"""Rules that come from the user: pins and forbidden values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts import pins
from planner.layouts.layout import Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.rules.rule import Rule


def pins_hold(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where every pinned field has its value."""
    kept = [pins.matches(columns, field, value) for field, value in problem.pins.items()]
    return np.logical_and.reduce([np.ones(len(columns), dtype=bool), *kept])


def nothing_forbidden(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where no field has a forbidden value."""
    hit = [
        pins.may_match(columns, field, value)
        for field, values in problem.forbids.items()
        for value in values
        if field != pins.LAYERS
    ]
    return ~np.logical_or.reduce([np.zeros(len(columns), dtype=bool), *hit])


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    columns = columns_of(layout)
    broken = [f"{f}={v}" for f, v in problem.pins.items() if not pins.keeps(layout, f, v)]
    hit = [f"{f}={v}" for f, values in problem.forbids.items() for v in values if pins.may_match(columns, f, v)[0]]
    return {"pins": ", ".join(broken), "forbids": ", ".join(hit)}


RULES = (
    Rule(
        id="PIN001",
        about=("pin",),
        title="not the pinned value",
        field="tensor_mode",
        message="the layout does not have {pins}",
        detail="pinned: {pins}",
        hint="drop the pin",
        values=_values,
        why="A pin leaves only layouts that have its value.",
        source="what was pinned, and the tensor mode that was asked for",
        holds=pins_hold,
        holds_layout=lambda problem, layout: all(
            pins.keeps(layout, field, problem.pins[field]) for field in pins.LISTS if field in problem.pins
        ),
    ),
    Rule(
        id="PIN002",
        about=("forbid",),
        title="a forbidden value",
        field="tensor_mode",
        message="the layout has the forbidden {forbids}",
        detail="forbidden: {forbids}",
        hint="drop the {field.forbid}",
        values=_values,
        why="A forbidden value removes every layout that has it.",
        source="what was forbidden",
        holds=nothing_forbidden,
    ),
)
