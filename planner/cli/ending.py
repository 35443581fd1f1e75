"""How a command ends that did not return: one message and an exit code, and a traceback for no user."""

import errno
import os
import sys

from planner.diagnostics import ExitCode, PlanError, render
from planner.outputs import say


def exit_code(error: BaseException) -> int:
    """Say what ended a command, and with which code the process has to end.

    Raises:
        BaseException: a defect, where ``GPTPLAN_DEBUG`` asks for its traceback.
    """
    if was_interrupted(error):
        return _said(ExitCode.INTERRUPTED, "interrupted")
    if isinstance(error, SystemExit):
        return int(error.code or 0) if isinstance(error.code, int | None) else int(ExitCode.USAGE)
    if isinstance(error, PlanError):
        return _said(error.exit_code, "\n\n".join(render(diagnostic) for diagnostic in error.diagnostics))
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


def _said(code: ExitCode, message: str) -> int:
    say(message)
    return int(code)
