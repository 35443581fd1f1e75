"""The commands of docs/data.md run as they stand there, one after the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.runtime

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "data.md"


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


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    done = run_blocks(PAGE, tmp_path)
    metrics = tmp_path / "work" / "first" / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [one["step"] for one in records if one["record"] == "step"] == list(range(1, 21))
    assert [one["step"] for one in records if one["record"] == "evaluation"] == [10, 20]
    assert "valid: 50 steps of 8 x 128 tokens" in done.stdout
    assert "held out: " in done.stderr
