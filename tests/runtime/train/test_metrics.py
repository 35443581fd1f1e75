"""The metrics file of a run that goes on."""

import json
from pathlib import Path

import pytest

from planner.handover.metrics import read_records
from runtime.train.measure import MetricsFile

pytestmark = pytest.mark.runtime


def test_a_run_that_goes_on_keeps_whole_records_of_earlier_steps_and_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    steps = [{"record": "step", "step": n, "loss": 0.1 + n, "time_s": 100.0 + n} for n in (1, 2, 3)]
    lines = [
        *map(json.dumps, steps[:2]),
        '{"record": "step", "st',
        '{"step": 1}',
        json.dumps({"record": "event", "event": "fault", "step": 3, "time_s": 102.5}),
        json.dumps(steps[2]),
        json.dumps({"record": "summary", "time_s": 104.0}),
    ]
    path.write_text("\n".join(lines))
    with MetricsFile(path, after=2) as metrics:
        assert metrics.redone_s == 1.0
        metrics.write("step", step=3)
    assert all(json.loads(line)["record"] for line in path.read_text().splitlines())
    *kept, new = read_records(path)
    assert kept == [*steps[:2], json.loads(lines[4])]
    assert new["step"] == 3


def test_metrics_that_cannot_be_read_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        MetricsFile(tmp_path / "metrics.jsonl", after=2)
