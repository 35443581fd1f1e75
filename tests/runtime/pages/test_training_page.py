"""The commands of docs/training.md run as they stand there, one after the other; Slurm's own are stood in for."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.runtime.pages.test_data_page import ROOT, run_blocks

pytestmark = pytest.mark.runtime

PAGE = ROOT / "docs" / "training.md"
STANDS_IN = {
    "scontrol": 'if [ "$1" = show ]; then echo node3; echo node4; else echo "scontrol $*"; fi',
    "srun": 'shift; SLURM_NODEID=1 "$@"',
    "gptplan": 'echo "gptplan $*"; exit "$ENDS"',
}


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    done = run_blocks(PAGE, tmp_path)
    folder = tmp_path / "work" / "runs" / "first"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [one for one in records if one["record"] == "step"]
    assert [one["step"] for one in steps] == list(range(1, 61))
    assert [one["steps"] for one in records if one["record"] == "header"] == [40, 60]
    assert all(one["memory"] for one in steps[40:] if one["step"] % 6 == 0)
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
    (script,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
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
