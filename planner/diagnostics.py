"""What gptplan says when something is wrong, and the exit code that goes with it.

A :class:`Diagnostic` is a value; :class:`PlanError` carries one or more of them to the command
line, which renders them once. No other exception is meant for a user.
"""

import enum
from typing import Any

import msgspec


class ExitCode(enum.IntEnum):
    """Exit codes of every command."""

    OK = 0
    NEGATIVE = 1
    """A negative answer: infeasible, violations, an edited or stale plan."""
    USAGE = 2
    """Bad usage or bad input."""
    BUG = 3
    """A defect of gptplan."""
    SAVED = 75
    """A run was asked to end and has saved; with ``--resume`` it goes on (EX_TEMPFAIL of sysexits.h)."""
    REWIND = 76
    """Of ranks only, whose launcher starts them again from an earlier checkpoint."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C before there was an answer, as shells number it."""


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True):
    """One finding: what is wrong, where, with which numbers, and what to type instead."""

    rule: str
    message: str
    severity: str = "error"
    location: str = ""
    """``file: key`` or the option that holds the offending value; empty when there is none."""
    values: dict[str, Any] = {}
    detail: str = ""
    """The arithmetic, with the real numbers."""
    hint: str = ""


class PlanError(Exception):
    """A user's mistake or a negative answer; rendered without a traceback."""

    answer: dict[str, Any] | None = None
    """What the command found before: a part of its one JSON document."""

    def __init__(self, *diagnostics: Diagnostic, exit_code: ExitCode = ExitCode.USAGE) -> None:
        """Carry ``diagnostics`` out of the call stack and end the command with ``exit_code``."""
        super().__init__("; ".join(d.message for d in diagnostics))
        self.diagnostics = diagnostics
        self.exit_code = exit_code


def usage_error(
    message: str, *, location: str = "", hint: str = "", rule: str = "USAGE", detail: str = ""
) -> PlanError:
    """A :class:`PlanError` with one diagnostic, for bad usage or bad input (exit code 2)."""
    return PlanError(Diagnostic(rule=rule, message=message, location=location, hint=hint, detail=detail))


def escaped(text: str) -> str:
    """``text`` with what a terminal or a browser would obey, and not show, as escapes: controls, bidi overrides.

    Line breaks stay. What is printable by Unicode stays as it is, in whatever script.
    """
    if text.isprintable():
        return text
    return "".join(one if one == "\n" or one.isprintable() else _escape(one) for one in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 2**8 else f"\\u{number:04x}" if number < 2**16 else f"\\U{number:08x}"


def render(diagnostic: Diagnostic) -> str:
    """Lay a diagnostic out for a terminal; readable without colour."""
    lines = [f"{diagnostic.severity}[{diagnostic.rule}]: {diagnostic.message}"]
    if diagnostic.location:
        lines.append(f"  --> {diagnostic.location}")
    lines += [f"  {line}" for line in diagnostic.detail.splitlines()]
    if diagnostic.hint:
        lines.append(f"hint: {diagnostic.hint}")
    return escaped("\n".join(lines))
