"""The commands of pages run as they stand there, one after the other; Slurm's own are stood in for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.launched import ROOT, records

pytestmark = pytest.mark.runtime

TRAINING = ROOT / "docs" / "training.md"
STANDS_IN = {
    "scontrol": 'if [ "$1" = show ]; then echo node3; echo node4; else echo "scontrol $*"; fi',
    "srun": 'shift; SLURM_NODEID=1 "$@"',
    "gptplan": 'echo "gptplan $*"; exit "$ENDS"',
}


def run_blocks(page: Path, tmp_path: Path) -> "subprocess.CompletedProcess[str]":
    """All commands of a page, in the folder ``work``."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    shims = tmp_path / "bin"
    shims.mkdir()
    for name, command in {"gptplan": "-m planner.cli", "python": ""}.items():
        (shims / name).write_text(f'#!/bin/sh\nexec {sys.executable} {command} "$@"\n')
        (shims / name).chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    env = os.environ | {"PATH": f"{shims}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    script = "set -eu\n" + "".join(blocks)
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def steps(run: Path, kind: str = "step") -> list[int]:
    return [one["step"] for one in records(run, kind)]


def test_the_commands_about_data_run(tmp_path: Path) -> None:
    done = run_blocks(ROOT / "docs" / "data.md", tmp_path)
    run = tmp_path / "work" / "first"
    assert steps(run) == list(range(1, 21))
    assert steps(run, "evaluation") == [10, 20]
    assert "valid: 50 steps of 8 x 128 tokens" in done.stdout
    assert "held out: " in done.stderr


def test_the_commands_about_faults_run(tmp_path: Path) -> None:
    done = run_blocks(ROOT / "docs" / "faults.md", tmp_path)
    long, few = (tmp_path / "work" / name for name in ("long", "few"))
    assert (steps(long), steps(few)) == (list(range(1, 21)), list(range(1, 11)))
    words = "^1 device is there: .*; predicted step .* instead of .*; the plan is in few/plan-1$"
    assert re.search(words, done.stderr, re.MULTILINE) is not None, done.stderr
    assert [one["event"] for one in records(few, "event")] == ["replan"]
    assert all(one["gradient_norm"] for one in records(long, "step"))


def test_the_commands_about_training_run(tmp_path: Path) -> None:
    done = run_blocks(TRAINING, tmp_path)
    folder = tmp_path / "work" / "runs" / "first"
    assert steps(folder) == list(range(1, 61))
    assert [one["steps"] for one in records(folder, "header")] == [40, 60]
    assert all(one["memory"] for one in records(folder, "step")[40:] if one["step"] % 6 == 0)
    row = r"^runs/first +gpt2-tiny +\S+ \S+ +finished +40 of 40 .* step-00000040$"
    assert re.search(row, done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^goodput: [\d.]+% of [\d.,]+ s trained$", done.stdout, re.MULTILINE)
    line = r"^step 20/40: loss \d\.\d+, rate 0\.0003, \S+ k?tokens/s, MFU [\d.]+%, [\d.]+ MiB, "
    line += r"\S+ m?s a step, predicted \S+ m?s, \d:\d\d:\d\d left$"
    assert re.search(line, done.stderr, re.MULTILINE), done.stderr
    assert "<figcaption>loss, last " in (folder / "report.html").read_text(encoding="utf-8")
    assert done.stdout.count("The ") >= 2
    assert (tmp_path / "work" / "weights" / "config.json").is_file()


@pytest.mark.parametrize("ends", [75, 0, 1])
def test_the_script_for_slurm_goes_on_and_is_queued_again(ends: int, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```", TRAINING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, body in STANDS_IN.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node[3-4]", "SLURM_JOB_ID": "7", "ENDS": str(ends)}
    env = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for how in ("--force", "--resume"):
        command = ["bash", "-c", script]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (ends, "")
        started, *queued = done.stdout.splitlines()
        assert started == f"gptplan run gpt.plan --job job.toml --run-dir runs/gpt {how} --keep-going"
        assert queued == ["scontrol requeue 7"] * (ends == 75)
        whole = tmp_path / "runs/gpt/checkpoints/step-00001000/manifest.json"
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.touch()
