"""What a rule is: data that says which layouts are valid, and how to say so to a person."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from planner.diagnostics import Diagnostic
from planner.layouts.layout import Layout, LayoutColumns, columns_of, value_of
from planner.layouts.problem import Problem

About = Literal[
    "batch",  # another global batch can keep it
    "count",  # the number of devices that a layout uses
    "degrees",  # another degree than that of its field can keep it too
    "engine",  # what Colossal-AI's pipeline runs; other frameworks run what it refuses
    "even-stages",  # every stage has equally many layers
    "forbid",  # a value that the user rules out
    "gpu",  # what runs on a GPU only
    "grid",  # the edge of a grid of tensor-parallel ranks, where the degree makes one
    "layers-per-stage",  # the lists per stage, which mean nothing with more stages than layers
    "mesh",  # whether the degrees divide the devices
    "pin",  # a value that the user fixes
    "recompute",  # how many layers recompute
    "runtime",  # what gptplan's own runtime executes, whatever framework the layout is for
    "sequence-length",  # tokens of a sequence
]
"""What a rule can be about: those who need a kind of rule ask for it by such a word, and never by a rule's id."""
ColumnPredicate = Callable[[Problem, LayoutColumns], NDArray[np.bool_]]
LayoutPredicate = Callable[[Problem, Layout], bool]
Values = Callable[[Problem, Layout], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class RuleText:
    """What every rule says of itself. ``message``, ``detail`` and ``hint`` are templates over the rule's values."""

    id: str
    title: str
    """Names the violation, lower case, no full stop."""
    field: str
    """The layout field, or the key of a configuration, that a person would change."""
    message: str
    detail: str
    hint: str
    why: str
    """What goes wrong where the rule is broken, in one or two sentences."""
    source: str
    """Where the rule comes from."""
    about: tuple[About, ...] = ()
    """What else can be told of it without its id."""


@dataclass(frozen=True, kw_only=True)
class Rule(RuleText):
    """One rule about layouts.

    ``holds`` judges columns of layouts; ``holds_layout`` judges what columns do not have, the
    lists per stage of one whole layout. A rule has one of them or both, or neither when the cost
    model decides it and passes the numbers to :meth:`diagnose`.
    """

    values: Values
    holds: ColumnPredicate | None = None
    holds_layout: LayoutPredicate | None = None

    def holds_for(self, problem: Problem, layout: Layout, columns: LayoutColumns | None = None) -> bool:
        """Whether one whole layout keeps the rule; true for a rule that the cost model decides.

        ``columns`` are those of the layout, where they are known already.
        """
        by_columns = self.holds is None or bool(self.holds(problem, columns or columns_of(layout))[0])
        return by_columns and (self.holds_layout is None or self.holds_layout(problem, layout))

    def diagnose(self, problem: Problem, layout: Layout, **numbers: Any) -> Diagnostic:
        """Say how ``layout`` breaks the rule, with its numbers and those the cost model adds."""
        values = self.values(problem, layout) | numbers
        return Diagnostic(
            rule=self.id,
            message=self.message.format(**values),
            location=f"layout: {self.field} = {value_of(layout, self.field)}",
            values=values,
            detail=self.detail.format(**values),
            hint=self.hint.format(**values),
        )


def listed(values: list[int], most: int = 8) -> str:
    """``"1, 2, 4 or 8"``; a long list is cut."""
    words = [str(value) for value in values[:most]]
    if len(values) > most:
        return ", ".join(words) + ", ..."
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "no value"
