"""How commands end: exit codes, interrupts at any moment, readers that leave, drives that are full."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli.ending import exit_code
from planner.diagnostics import ExitCode, usage_error

ROOT = Path(__file__).parents[3]
PLAN = ROOT / "plans" / "gpt2-tiny-2xlocal-cpu.plan"


def ended_by(error: BaseException, behind: BaseException | None = None) -> int:
    error.__cause__ = behind
    return exit_code(error)


def test_every_end_has_its_code_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended_by(SystemExit(1)) == ExitCode.NEGATIVE
    assert ended_by(SystemExit("no number")) == ExitCode.USAGE
    assert capsys.readouterr().err == ""
    assert ended_by(usage_error("no such card", hint="name another")) == ExitCode.USAGE
    assert capsys.readouterr().err == "error[USAGE]: no such card\nhint: name another\n"
    assert ended_by(OSError(errno.ENOSPC, "No space left on device")) == ExitCode.USAGE
    assert capsys.readouterr().err == "error[USAGE]: cannot write the answer: No space left on device\n"
    assert ended_by(FileNotFoundError(errno.ENOENT, "gone")) == ExitCode.BUG
    assert "this is a defect of gptplan" in capsys.readouterr().err


def test_an_interrupt_behind_an_error_is_no_defect(capsys: pytest.CaptureFixture[str]) -> None:
    """A library that is being imported turns Ctrl-C into an error of its own, and Typer into an exit."""
    for error in (KeyboardInterrupt(), ImportError("initialization failed"), SystemExit(130)):
        behind = None if isinstance(error, KeyboardInterrupt) else KeyboardInterrupt()
        assert ended_by(error, behind) == ExitCode.INTERRUPTED
        assert capsys.readouterr().err == "interrupted\n"


def test_a_defect_is_raised_for_those_who_look_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPTPLAN_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        exit_code(ZeroDivisionError("a defect"))


def gptplan(*arguments: str | Path, stdout: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner.cli.app", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, env=os.environ | environment
    )


@pytest.mark.parametrize("arguments", [("show", PLAN), ("diff", PLAN, PLAN), ("rules",)], ids=lambda one: one[0])
def test_a_reader_who_leaves_is_no_error(arguments: tuple[str | Path, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    result = gptplan(*arguments, stdout=write)
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [("show", PLAN), ("models",)], ids=lambda one: one[0])
def test_a_full_drive_is_said(arguments: tuple[str | Path, ...], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        result = gptplan(*arguments, stdout=full.fileno(), PYTHONUNBUFFERED=unbuffered)
    assert (result.returncode, result.stderr) == (2, "error[USAGE]: cannot write the answer: No space left on device\n")
