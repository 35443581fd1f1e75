"""The command line as tests call it, in this process."""

from pathlib import Path

import pytest

from planner.cli import app as cli
from tests.helpers import Outcome, Run


@pytest.fixture
def gptplan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``gptplan("show", path)`` in an empty folder; no command may show a traceback."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as finished:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Outcome(int(finished.value.code or 0), captured.out, captured.err)

    return run


@pytest.fixture
def check(gptplan: Run) -> Run:
    """``check("file.py", "--gpus", 8)`` in an empty folder; no file may show a defect."""

    def run(*arguments: object) -> Outcome:
        outcome = gptplan("check", *arguments)
        assert "error[BUG]" not in outcome.err
        return outcome

    return run
