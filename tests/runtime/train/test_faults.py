"""Losses that go wrong, on ranks of which only the last stage knows them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoints.folders import checkpoints_in
from planner.checkpoints.manifest import read_manifest
from planner.plans.plan import Plan, write_plan
from tests.runtime.launched import ROOT, TIMEOUT_S, MakePlan

pytestmark = pytest.mark.runtime

BROKEN = """
import sys

if "runtime.train.worker" in sys.orig_argv:
    from runtime.engines.engine import Engine
    from runtime.train.data import Batches

    factors = {factors}
    batch, mean, now = Batches.batch, Engine._global_mean, []

    def noted(self, step, rows):
        now[:] = [step + 1]
        return batch(self, step, rows)

    def broken(self, loss):
        factor = factors.get(now[0], 1.0)
        return mean(self, None if loss is None else loss * factor)

    Batches.batch, Engine._global_mean = noted, broken
"""
"""Put before the ranks' own code: the loss of some steps times a factor."""


class Ran:
    """How a run ended."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self.stdout, self.stderr = process.communicate(timeout=3 * TIMEOUT_S)
        self.code, self.folder = process.returncode, folder
        assert "Traceback" not in self.stderr

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> dict[int, float | None]:
        steps = [(one["step"], one["loss"]) for one in self.records if one["record"] == "step"]
        assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
        return dict(steps)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [one for one in self.records if one.get("event") == kind]


def run(chosen: Plan, folder: Path, factors: str, **settings: object) -> Ran:
    folder.mkdir()
    write_plan(chosen, folder / "small.plan")
    (folder / "sitecustomize.py").write_text(BROKEN.format(factors=factors))
    fixed = ["--steps", 40, "--set", "checkpoint.every_steps=10", "--set", "faults.spike_window=8"]
    own = [text for key, value in settings.items() for text in ("--set", f"faults.{key}={value}")]
    arguments = [*fixed, *own, "--learning-rate", "3e-3", "--run-dir", folder / "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "planner.cli", "run", str(folder / "small.plan"), *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )
    return Ran(process, folder / "out")


def test_a_step_is_skipped_and_another_gone_back_from(plan: MakePlan, tmp_path: Path) -> None:
    """The loss is no number in step 14, whose update is skipped; it jumps in step 32, which is passed over with 31."""
    chosen = plan(pipeline_parallel=2, num_microbatches=2)
    ran = run(chosen, tmp_path / "a", "{14: float('nan'), 32: 3.0}", not_finite="skip", spike="rewind")
    assert ran.code == 0, ran.stderr
    skipped, gone_back = ran.events("fault")
    assert (skipped["step"], skipped["kind"], skipped["action"], skipped["loss"]) == (14, "not_finite", "skip", None)
    assert (gone_back["step"], gone_back["kind"], gone_back["action"]) == (32, "spike", "rewind")
    assert gone_back["loss"] > gone_back["highest"]
    assert skipped["samples"] == [13 * 8, 13 * 8 + 7]
    assert skipped["data"][0]["file"].endswith(".bin")
    assert "the loss of step 14 is nan\n" in ran.stderr
    assert "  sample 104: the standard library of this Python, epoch 1, from token " in ran.stderr
    checkpoint = ran.folder / "checkpoints" / "step-00000030"
    assert f"goes back to {checkpoint}, and passes over the batches of steps 31, 32" in ran.stderr
    (restart,) = ran.events("restart")
    assert (restart["step"], restart["restarts"], restart["reason"]) == (33, 0, "going back")
    assert [step for step, loss in ran.losses.items() if loss is None] == [14, 31, 32]
    last = checkpoints_in(ran.folder / "checkpoints")[-1]
    facts = read_manifest(last).facts
    assert (facts.step, facts.skipped_steps, facts.optimizer_step) == (40, (31, 32), 37)


def test_there_are_no_more_faults_than_the_job_allows(plan: MakePlan, tmp_path: Path) -> None:
    """The first goes back to the beginning, for nothing was saved before it."""
    factors = "{4: float('nan'), 5: float('inf')}"
    limited = run(plan(tensor_parallel=2), tmp_path / "b", factors, not_finite="rewind", pass_over=1, max_faults=1)
    assert limited.code == 1
    assert "goes back to its beginning, and passes over the batches of steps 4\n" in limited.stderr
    assert [step for step, loss in limited.losses.items() if loss is None] == [4, 5]
    assert [one["action"] for one in limited.events("fault")] == ["rewind", "stop"]
    assert "error[RUN007]: the loss of step 5 is inf" in limited.stderr
    assert "there were as many faults as `faults.max_faults` allows" in limited.stderr
