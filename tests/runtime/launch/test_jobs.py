"""A job under two layouts: the same data in the same order, the same losses, evaluated on the same documents."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.data.token_files import index_bytes
from planner.handover.work import JOB_FILE, METRICS_FILE
from planner.jobs.reading import read_job
from tests.runtime.launched import TIMEOUT_S, MakePlan, Run

pytestmark = pytest.mark.runtime

STEPS = 12
TEXT = "".join(f'{{"text": "{number} sheep and {number + 1} wolves"}}\n' for number in range(300))


def megatron(prefix: Path) -> None:
    """Documents that count, as tokens."""
    documents = [np.arange(start, start + 40) % 250 for start in range(100)]
    np.concatenate(documents).astype("<u2").tofile(prefix.with_suffix(".bin"))
    lengths, ends = np.full(100, 40, np.int32), np.ones(100, np.bool_)
    prefix.with_suffix(".idx").write_bytes(index_bytes(lengths, ends, np.dtype("<u2")))


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / METRICS_FILE).read_text().splitlines()]
    return [record for record in found if record["record"] == kind]


def test_two_layouts_learn_the_same(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    megatron(tmp_path / "counting")
    (tmp_path / "sheep.jsonl").write_text(TEXT + "broken\n")
    settings = (
        'data.paths=["counting", "sheep.jsonl"]',
        "data.weights=[0.25, 0.75]",
        "data.held_out=0.1",
        "schedule.kind=cosine",
        "schedule.warmup_steps=2",
        "optimizer.learning_rate=1e-2",
        "evaluation.every_steps=5",
        "evaluation.batches=2",
        "data.cache=tokens",
    )
    layouts: dict[str, dict[str, Any]] = {
        "pp2": {"pipeline_parallel": 2, "num_microbatches": 2},
        "dp2": {"data_parallel": 2},
    }
    found = {}
    for name, layout in layouts.items():
        process = start(plan(**layout), steps=STEPS, settings=settings, run_dir=Path(name))
        _, stderr = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0, stderr
        assert "step 12/12: held-out loss" in stderr
        found[name] = tmp_path / name
    first, second = found.values()
    losses = [[record["loss"] for record in records(folder, "step")] for folder in found.values()]
    assert len(losses[0]) == STEPS
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[0][-1] < losses[0][0] - 0.5

    evaluated = [records(folder, "evaluation") for folder in found.values()]
    assert [one["step"] for one in evaluated[0]] == [5, 10, 12]
    assert [one["loss"] for one in evaluated[1]] == pytest.approx([one["loss"] for one in evaluated[0]], rel=1e-5)
    assert evaluated[0][-1]["perplexity"] == pytest.approx(np.exp(evaluated[0][-1]["loss"]))
    assert evaluated[0][-1]["loss"] < evaluated[0][0]["loss"]

    (header,), (other,) = records(first, "header"), records(second, "header")
    assert header["job_digest"] == read_job(first / JOB_FILE).digest == other["job_digest"]
    assert header["data_fingerprint"] == other["data_fingerprint"]
    rates = [record["learning_rate"] for record in records(first, "step")]
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert len(list((tmp_path / "tokens").glob("*.bin"))) == 1, "tokenized once"
