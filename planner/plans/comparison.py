"""Two plans side by side: what was asked, how the layouts differ, and what the prediction says of that."""

from typing import Any

import msgspec

from planner.plans.plan import Plan
from planner.specs.files import to_builtins

NO_SOURCES = "sources"
"""Citations of a spec: they change no figure."""
SAID_ONLY = ("model.name", "model.title")
"""What a model is called, which changes no figure."""
TERM_TOKENS = 1_000_000


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field that the two plans do not have alike; ``None`` where one of them lacks it."""

    field: str
    first: Any
    second: Any


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A predicted quantity of both plans, in SI base units."""

    name: str
    unit: str
    first: float
    second: float
    ratio: float | None
    """Second over first; ``None`` if the first is 0."""


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """A term of the step time of both plans, in seconds a million tokens."""

    name: str
    first_s: float
    second_s: float

    @property
    def saved_s(self) -> float:
        """What the second plan takes less."""
        return self.first_s - self.second_s


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All that differs between two plans."""

    question: tuple[Difference, ...]
    specs: tuple[Difference, ...]
    layout: tuple[Difference, ...]
    figures: tuple[Figure, ...]
    terms: tuple[Term, ...]
    """The terms that differ, the largest difference first."""
    faster: str
    """``first``, ``second`` or ``same``, by tokens a second; ``none`` where these are tokens of different models."""
    speedup: float | None
    """Tokens a second of the faster over those of the slower."""


def compare(first: Plan, second: Plan) -> Comparison:
    """What differs between two plans, and which trains more tokens a second."""
    figures = tuple(_figures(first, second))
    rates = first.predicted.tokens_per_s, second.predicted.tokens_per_s
    faster = "same" if rates[0] == rates[1] else ("first" if rates[0] > rates[1] else "second")
    specs = _differences(first.problem.specs, second.problem.specs)
    if any(one.field.startswith("model.") and one.field not in SAID_ONLY for one in specs):
        faster = "none"
    return Comparison(
        question=_differences(first.problem.asked, second.problem.asked),
        specs=specs,
        layout=_differences(first.layout, second.layout),
        figures=figures,
        terms=_terms(first, second),
        faster=faster,
        speedup=None if faster == "none" else max(rates) / min(rates),
    )


def _differences(first: Any, second: Any) -> tuple[Difference, ...]:
    ours, theirs = _flat(to_builtins(first)), _flat(to_builtins(second))
    return tuple(
        Difference(field=field, first=ours.get(field), second=theirs.get(field))
        for field in dict.fromkeys((*ours, *theirs))
        if ours.get(field) != theirs.get(field)
    )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as ``table.key``; citations left out."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if key == NO_SOURCES:
            continue
        if isinstance(inner, dict):
            found |= _flat(inner, f"{prefix}{key}.")
        else:
            found[prefix + key] = inner
    return found


def _figures(first: Plan, second: Plan) -> list[Figure]:
    def of(plan: Plan) -> list[tuple[str, str, float]]:
        predicted = plan.predicted
        return [
            ("step time", "s", predicted.step_s),
            ("throughput", "tokens/s", predicted.tokens_per_s),
            ("throughput per GPU", "tokens/s", predicted.tokens_per_s / plan.problem.num_devices),
            ("model FLOP/s per GPU", "FLOP/s", predicted.model_flops_per_s_per_gpu),
            ("MFU", "", predicted.mfu),
            ("peak of the fullest stage", "B", float(max(stage.peak_bytes for stage in predicted.stages))),
            ("host memory of a node", "B", float(predicted.host_bytes_per_node)),
        ]

    return [
        Figure(name=name, unit=unit, first=ours, second=theirs, ratio=theirs / ours if ours else None)
        for (name, unit, ours), (_, _, theirs) in zip(of(first), of(second), strict=True)
    ]


def _terms(first: Plan, second: Plan) -> tuple[Term, ...]:
    """By tokens, so that plans with different batches compare."""
    ours, theirs = _per_tokens(first), _per_tokens(second)
    terms = [
        Term(name=name, first_s=ours.get(name, 0.0), second_s=theirs.get(name, 0.0))
        for name in dict.fromkeys((*ours, *theirs))
    ]
    return tuple(sorted((term for term in terms if term.saved_s), key=lambda term: -abs(term.saved_s)))


def _per_tokens(plan: Plan) -> dict[str, float]:
    share = TERM_TOKENS / (plan.problem.global_batch * plan.problem.seq_len)
    return {name: seconds * share for name, seconds in plan.predicted.breakdown_s.items()}
