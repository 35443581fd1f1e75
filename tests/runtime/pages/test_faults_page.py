"""The commands of docs/faults.md run as they stand there, one after the other."""

import json
import re
from pathlib import Path

import pytest

from tests.runtime.pages.test_data_page import ROOT, run_blocks

pytestmark = pytest.mark.runtime


def test_the_commands_of_the_page_run(tmp_path: Path) -> None:
    done = run_blocks(ROOT / "docs" / "faults.md", tmp_path)
    steps = {name: _steps(tmp_path / "work" / name) for name in ("long", "few")}
    assert steps == {"long": list(range(1, 21)), "few": list(range(1, 11))}
    words = "^1 device is there: .*; predicted step .* instead of .*; the plan is in few/plan-1$"
    assert re.search(words, done.stderr, re.MULTILINE) is not None, done.stderr
    events = [one for one in _records(tmp_path / "work" / "few") if one["record"] == "event"]
    assert [one["event"] for one in events] == ["replan"]
    assert all(one["gradient_norm"] for one in _records(tmp_path / "work" / "long") if one["record"] == "step")


def _records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _steps(folder: Path) -> list[object]:
    return [one["step"] for one in _records(folder) if one["record"] == "step"]
