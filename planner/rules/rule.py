"""What a rule is: data that says which layouts are valid, and how to say so to a person."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, Self

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
    "fill",  # whether the micro batches keep every stage busy
    "forbid",  # a value that the user rules out
    "gpu",  # what runs on a GPU only
    "grid",  # the edge of a grid of tensor-parallel ranks, where the degree makes one
    "grid-batch",  # how a grid splits a micro batch, which other libraries do in another way
    "layers-per-stage",  # the lists per stage, which mean nothing with more stages than layers
    "library",  # what today's Colossal-AI refuses; its older versions and other frameworks run it
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


FIELD_WORDS = {
    "tensor_parallel": "tensor parallel degree",
    "tensor_mode": "tensor mode",
    "tensor_depth": "tensor depth",
    "zero_stage": "ZeRO stage",
}
"""What messages call a layout field by ``{name.FIELD}``, where that is not its key."""
ASKED = ("allow_offload", "forbid", "global_batch", "mode", "pin", "precision", "reserve", "seq_len", "stack")
"""What is no field of a layout but asked for: on the command line by an option of that name."""
FIELD_KEYS = {asked: f"--{asked.replace('_', '-')}" for asked in ASKED}
"""What sets a field by ``{field.FIELD}``, where that is not the field's own name."""
NAMED_FIELDS = (
    "tensor_parallel",
    "tensor_mode",
    "tensor_depth",
    "pipeline_parallel",
    "micro_batch",
    "num_microbatches",
    "num_model_chunks",
    "layers_per_stage",
    "schedule",
    "sequence_parallel",
    "zero_stage",
)
"""Fields of layouts and questions that templates name through ``name`` and ``field``."""


def names_of(framework: Mapping[str, str]) -> dict[str, SimpleNamespace]:
    """``name`` and ``field`` of the templates: a framework's names of fields, and gptplan's own for all others."""
    own = {field: field for field in (*NAMED_FIELDS, *ASKED)}
    return {
        "name": SimpleNamespace(**{**own, **FIELD_WORDS, **framework}),
        "field": SimpleNamespace(**{**own, **FIELD_KEYS, **framework}),
    }


OWN_NAMES = names_of({})


class _Unfilled(dict[str, Any]):
    """Values of a template of which some are not known."""

    def __missing__(self, value: str) -> str:
        return f"{{{value}}}"


@dataclass(frozen=True, kw_only=True)
class RuleText:
    """What every rule says of itself.

    ``message``, ``detail`` and ``hint`` are templates over the rule's values, and over what fields are called:
    ``{name.tensor_parallel}`` is a word, ``{field.tensor_parallel}`` the key that sets it.
    """

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

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """``message``, ``detail`` and ``hint`` over values and names."""
        return {text: getattr(self, text).format_map(values) for text in ("message", "detail", "hint")}

    def spelled_out(self) -> Self:
        """The rule with gptplan's names of fields in its templates, for those who read them."""
        texts = self.texts(_Unfilled(OWN_NAMES))
        return replace(self, message=texts["message"], detail=texts["detail"], hint=texts["hint"])


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

    def diagnose(
        self, problem: Problem, layout: Layout, names: Mapping[str, Any] = OWN_NAMES, /, **numbers: Any
    ) -> Diagnostic:
        """Say how ``layout`` breaks the rule, with its numbers and those the cost model adds."""
        values = self.values(problem, layout) | numbers
        location = f"layout: {self.field} = {value_of(layout, self.field)}"
        return Diagnostic(rule=self.id, location=location, values=values, **self.texts({**values, **names}))


def listed(values: list[int], most: int = 8) -> str:
    """``"1, 2, 4 or 8"``; a long list is cut."""
    words = [str(value) for value in values[:most]]
    if len(values) > most:
        return ", ".join(words) + ", ..."
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "no value"
