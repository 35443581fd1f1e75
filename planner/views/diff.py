"""Two plans for people: what differs, predicted figures with ratio, and which is faster and why, on stdout."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from planner.plans.comparison import Comparison, Difference, Figure, Term
from planner.plans.prediction import TERM_WORDS
from planner.specs.units import format_gib, format_rate, format_seconds
from planner.views.console import stdout_console

MOST_REASONS = 3
LONGEST_VALUE = 60


def print_comparison(found: Comparison, names: tuple[str, str]) -> None:
    """Everything that differs; ``names`` head the columns."""
    console = stdout_console()
    for title, differences in (("question", found.question), ("specs", found.specs), ("layout", found.layout)):
        if differences:
            console.print(_differences(title, differences, names))
        else:
            console.print(f"{title}: the same in both")
        console.print()
    console.print(_figures(found.figures, names))
    console.print()
    console.print("\n".join(_verdict(found, names)), soft_wrap=True, markup=False)


def _differences(title: str, differences: Sequence[Difference], names: tuple[str, str]) -> Table:
    table = Table(title, *names, box=None, pad_edge=False)
    for one in differences:
        table.add_row(one.field, _value(one.first), _value(one.second))
    return table


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        text = " ".join(map(str, value))
    else:
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 4]} ..."


def _figures(figures: Sequence[Figure], names: tuple[str, str]) -> Table:
    table = Table("predicted", box=None, pad_edge=False)
    for heading in (*names, "ratio"):
        table.add_column(heading, justify="right")
    for figure in figures:
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
        table.add_row(figure.name, _quantity(figure.first, figure.unit), _quantity(figure.second, figure.unit), ratio)
    return table


def _quantity(value: float, unit: str) -> str:
    if unit == "s":
        return format_seconds(value)
    if unit == "B":
        return format_gib(value)
    return format_rate(value, unit) if unit else f"{value:.1%}"


def _verdict(found: Comparison, names: tuple[str, str]) -> list[str]:
    if found.faster == "same":
        return ["both are predicted to train equally fast"]
    first_is_faster = found.faster == "first"
    winner = names[0] if first_is_faster else names[1]
    lines = [f"{winner} is faster: {found.speedup:.3f} times the tokens a second. For a million tokens it takes"]
    return lines + [f"  {_reason(term, sign=-1 if first_is_faster else 1)}" for term in found.terms[:MOST_REASONS]]


def _reason(term: Term, *, sign: int) -> str:
    saved = sign * term.saved_s
    return f"{format_seconds(abs(saved))} {'less' if saved > 0 else 'more'} in {TERM_WORDS.get(term.name, term.name)}"
