"""How an option is declared: once, on the field of the struct that holds it.

From these fields come the parameters of the command line, the refusal of numbers out of range, the tables of
docs/cli.md, and what a worker is told: it gets the struct itself, as JSON.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

from planner.diagnostics import usage_error

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an option takes, and how it refuses others."""

    least: float = 1
    most: float = sys.float_info.max
    above: bool = False
    """Whether ``least`` itself is too little."""
    example: str
    """A value to type instead."""
    wanted: str = ""
    """The range in words, where they say more than its bounds."""
    refusal: str = "{option} has to be {wanted}, and it is {value}"

    def __str__(self) -> str:
        """The range in words: ``from 1 to 8``, ``at least 1``, ``above 0``."""
        if self.wanted:
            return self.wanted
        if self.most < sys.float_info.max:
            return f"above {self.least} and at most {self.most}" if self.above else f"from {self.least} to {self.most}"
        return f"above {self.least}" if self.above else f"at least {self.least}"

    def check(self, option: str, value: float) -> None:
        """Refuse a number that is not in the range.

        Raises:
            PlanError: it is not, with what to type instead.
        """
        if self.least <= value <= self.most and not (self.above and value == self.least):
            return
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        words = "for example" if self.most < sys.float_info.max else "use"
        raise usage_error(
            self.refusal.format(option=option, wanted=self, value=shown, least=self.least, most=self.most),
            location=option,
            hint=f"{words} `{option} {self.example}`",
        )


@dataclass(frozen=True)
class Option:
    """What a field's annotation says of an option beside its type; name and default are those of the field."""

    help: str = ""
    names: tuple[str, ...] = ()
    """What is typed, where it is not the field's name; the last is how messages call it."""
    metavar: str | None = None
    range: Range | None = None
    known: Callable[[], Iterable[str]] | None = None
    """Values that a shell may complete."""
    reads: type | None = None
    """What the command line reads it as, where the command itself refuses what its type does not have."""
    is_argument: bool = False
    """Whether it stands alone, without a name before it."""


class Declared(NamedTuple):
    """One option of a struct."""

    field: str
    type: Any
    option: Option
    default: Any
    """``msgspec.NODEFAULT`` where it has to be given."""

    @property
    def names(self) -> tuple[str, ...]:
        """What is typed; the last is how messages call it."""
        return self.option.names or ("--" + self.field.replace("_", "-"),)


def declared(struct: type[msgspec.Struct]) -> Iterator[Declared]:
    """The options that the fields of a struct declare, in their order."""
    for field in msgspec.structs.fields(struct):
        kind, option = get_args(field.type)
        yield Declared(field.name, kind, option, field.default)


def check_ranges(options: msgspec.Struct) -> None:
    """Refuse options whose numbers are out of the ranges that their fields declare.

    Raises:
        PlanError: one is; ``None`` is not.
    """
    for one in declared(type(options)):
        value = getattr(options, one.field)
        if one.option.range is not None and value is not None:
            one.option.range.check(one.names[-1], value)


def encode(options: msgspec.Struct) -> str:
    """A struct as the one argument that tells it to a worker."""
    # Python's own JSON has what msgspec refuses: names of files that are no UTF-8.
    return json.dumps(msgspec.to_builtins(options, enc_hook=str))


def decode(text: str, kind: type[Options]) -> Options:
    """The inverse of :func:`encode`."""
    return msgspec.convert(json.loads(text), kind, dec_hook=lambda wanted, value: wanted(value))
