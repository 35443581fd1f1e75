"""Two plans for people: what differs, predicted figures with ratio, and which is faster and why."""

from collections.abc import Sequence
from typing import Any

from planner.plans.comparison import Comparison, Figure, Term
from planner.specs.units import format_gib, format_rate, format_seconds
from planner.views.content import Table
from planner.views.plan import term_words

MOST_REASONS = 3
LONGEST_VALUE = 60


def comparison(found: Comparison, names: tuple[str, str]) -> list[str | Table]:
    """Everything that differs; ``names`` head the columns."""
    blocks: list[str | Table] = []
    for title, differences in (("question", found.question), ("specs", found.specs), ("layout", found.layout)):
        rows = [(one.field, _value(one.first), _value(one.second)) for one in differences]
        blocks += [Table((title, *names), rows, (0, 1, 2)) if rows else f"{title}: the same in both", ""]
    return [*blocks, _figures(found.figures, names), "", *_verdict(found, names)]


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        text = " ".join(map(str, value))
    else:
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


def _figures(figures: Sequence[Figure], names: tuple[str, str]) -> Table:
    rows = [
        (
            figure.name,
            _quantity(figure.first, figure.unit),
            _quantity(figure.second, figure.unit),
            "" if figure.ratio is None else f"{figure.ratio:.3f}",
        )
        for figure in figures
    ]
    return Table(("predicted", *names, "ratio"), rows)


def _quantity(value: float, unit: str) -> str:
    if unit == "s":
        return format_seconds(value)
    if unit == "B":
        return format_gib(value)
    return format_rate(value, unit) if unit else f"{value:.1%}"


def _verdict(found: Comparison, names: tuple[str, str]) -> list[str]:
    if found.speedup is None:
        models = ", ".join(
            f"{one.field.removeprefix('model.')} {one.first} and {one.second}"
            for one in found.specs
            if one.field.startswith("model.")
        )
        return ["neither is faster: they answer different questions, for different models", f"  {models}"]
    if found.faster == "same":
        return ["both are predicted to train equally fast"]
    first_is_faster = found.faster == "first"
    winner = names[0] if first_is_faster else names[1]
    lines = [f"{winner} is faster: {found.speedup:.3f} times the tokens a second. For a million tokens it takes"]
    return lines + [f"  {_reason(term, sign=-1 if first_is_faster else 1)}" for term in found.terms[:MOST_REASONS]]


def _reason(term: Term, *, sign: int) -> str:
    saved = sign * term.saved_s
    return f"{format_seconds(abs(saved))} {'less' if saved > 0 else 'more'} in {term_words(term.name)}"
