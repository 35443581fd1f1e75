"""``gptplan run --record`` from the command line: a row that ``validate`` reads, or a refusal before the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import planner
from planner.validation.tables import read_table

pytestmark = pytest.mark.runtime

TIMEOUT_S = 180


def gptplan(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    root = Path(planner.__file__).parent.parent
    python_path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-m", "planner.cli.app", *arguments],
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
        env=os.environ | {"PYTHONPATH": python_path},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    solved = gptplan(tmp_path, "solve", "--model", "gpt2-tiny", "--gpu", "local-cpu", "--gpus", "2", "-o", "t.plan")
    assert solved.returncode == 0, solved.stderr
    return tmp_path


def test_a_recorded_run_is_validated(folder: Path) -> None:
    for _ in range(2):
        done = gptplan(folder, "run", "t.plan", "--steps", "4", "--record", "runs.csv")
        assert done.returncode == 0, done.stderr
    rows = read_table(folder / "runs.csv").rows
    assert [row.id for row in rows] == ["t-000", "t-001"]
    for row in rows:
        assert row.number("step_s") is not None
        assert (row.count("device_used_mib_max") or 0) > 100
    validated = gptplan(folder, "validate", "runs.csv")
    assert validated.returncode == 0, validated.stderr
    assert "2/0" in validated.stdout


def test_another_table_is_refused_before_the_run(folder: Path) -> None:
    (folder / "other.csv").write_text("a,b\n1,2\n")
    done = gptplan(folder, "run", "t.plan", "--steps", "4", "--record", "other.csv")
    assert done.returncode == 2
    assert done.stderr.startswith("error[USAGE]: the first line is no header of a table of measured runs\n")
    assert "--record" in done.stderr
    assert not (folder / "runs").exists()
    assert (folder / "other.csv").read_text() == "a,b\n1,2\n"
