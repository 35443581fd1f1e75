"""How a command ends that did not return: one message and an exit code, and a traceback for no user."""

import errno
import io
import os
import sys
from typing import Any

import typer

from planner.cli.parameters import print_json
from planner.diagnostics import Diagnostic, ExitCode, PlanError, render
from planner.outputs import say
from planner.specs.files import to_builtins

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]  # Typer names no base of what it refuses itself


def exit_code(error: BaseException, *, as_json: bool = False) -> int:
    """Say what ended a command, and with which code the process has to end.

    ``as_json``: an error of the input is one JSON document on stdout too.

    Raises:
        BaseException: a defect, where ``GPTPLAN_DEBUG`` asks for its traceback.
    """
    if was_interrupted(error):
        return _said(ExitCode.INTERRUPTED, "interrupted")
    if isinstance(error, SystemExit):
        return int(error.code or 0) if isinstance(error.code, int | None) else int(ExitCode.USAGE)
    if isinstance(error, PlanError | USAGE_ERROR):
        return _refused(error, as_json=as_json)
    if isinstance(error, BrokenPipeError):
        _let_go_of_stdout()
        return int(ExitCode.OK)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        _let_go_of_stdout()
        return _said(ExitCode.USAGE, f"error[USAGE]: cannot write the answer: {error.strerror}")
    if os.environ.get("GPTPLAN_DEBUG"):
        raise error
    return _said(
        ExitCode.BUG,
        f"error[BUG]: {type(error).__name__}: {error}\n"
        "  this is a defect of gptplan, not of your input\n"
        "hint: run again with GPTPLAN_DEBUG=1 for the traceback and report it",
    )


def _document(*diagnostics: Diagnostic) -> dict[str, Any]:
    """The first error, and what else is wrong, as commands print findings with ``--json``."""
    first, *others = to_builtins(diagnostics)
    return {"error": first, "others": others}


def _refused(error: Any, *, as_json: bool) -> int:
    """Say what is wrong with the input, by our own words or by Typer's: no such option, or one without its value."""
    if isinstance(error, PlanError):
        found, answer = error.diagnostics, error.answer or {}
        text = "\n\n".join(map(render, found))
    else:
        found, answer, written = (Diagnostic(rule="USAGE", message=_words(error.format_message())),), {}, io.StringIO()
        error.show(file=written)
        text = _words(written.getvalue()).rstrip("\n")
    if as_json:
        print_json(answer | _document(*found))
    return _said(error.exit_code, text)


def _words(text: str) -> str:
    """A message of Typer with its choices in one line, and without the name of the exception in it."""
    return text.replace(": Value error, ", ": ").replace(":\n\t", ": ").replace(",\n\t", ", ")


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an exception, such as that of a library which was being imported."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _let_go_of_stdout() -> None:
    """Write what can still be written, and nothing at the interpreter's end, whose exit code a failure would change."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _said(code: int, message: str) -> int:
    say(message)
    return int(code)
