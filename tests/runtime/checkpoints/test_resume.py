"""Runs that are ended or killed and go on, with the losses of a run without a break.

From the command line, by themselves, and under another plan where devices are gone.
"""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kill_ranks import disturbed, solve, undisturbed, worst_difference
from planner.checkpoints.folders import checkpoints_in
from planner.plans.plan import Plan, read_plan, write_plan
from tests.runtime.launched import ROOT, TIMEOUT_S, MakePlan, ranks_of

pytestmark = pytest.mark.runtime

Start = Callable[..., "subprocess.Popen[str]"]
STEPS = 60
KILLED_STEPS, KILLS = 40, 4


@pytest.fixture
def command(plan: MakePlan, tmp_path: Path) -> Start:
    """``command(plan, *arguments)`` is `gptplan run` of a plan, with checkpoints every ten steps."""

    def run(chosen: Plan, *arguments: object) -> "subprocess.Popen[str]":
        path = tmp_path / f"tp{chosen.layout.tensor_parallel}.plan"
        write_plan(chosen, path)
        fixed = ["--steps", str(STEPS), "--set", "checkpoint.every_steps=10", "--learning-rate", "3e-3"]
        return subprocess.Popen(
            [sys.executable, "-m", "planner.cli", "run", str(path), *fixed, *map(str, arguments)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return run


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    return stderr


def wait_for(checkpoint: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not checkpoint.is_dir():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def losses(folder: Path) -> dict[int, float]:
    """By step, each of which is there once."""
    records: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [(record["step"], record["loss"]) for record in records if record["record"] == "step"]
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    return dict(steps)


def test_a_run_that_is_ended_and_killed_has_the_losses_of_one_without_a_break(
    plan: MakePlan, command: Start, tmp_path: Path
) -> None:
    chosen = plan(tensor_parallel=2, model={"dropout": 0.1})
    whole, broken = tmp_path / "whole", tmp_path / "out"
    ended(command(chosen, "--run-dir", whole), 0)

    process = command(chosen, "--run-dir", broken)
    wait_for(broken / "checkpoints" / "step-00000010")
    process.send_signal(signal.SIGTERM)
    stderr = ended(process, 75)
    assert stderr.splitlines()[-1].startswith("asked to end: the run has saved; `gptplan run ")
    saved = checkpoints_in(broken / "checkpoints")[-1]
    assert f"--resume {broken}` goes on" in stderr
    done = len(losses(broken))
    assert saved.name == f"step-{done:08d}"
    assert done < STEPS

    process = command(chosen, "--run-dir", broken, "--resume")
    wait_for(broken / "checkpoints" / "step-00000040")
    subprocess.run(["kill", "-9", str(ranks_of(tmp_path)[0])], check=True)
    assert "was killed by SIGKILL" in ended(process, 137)
    with (broken / "metrics.jsonl").open("a") as file:
        file.write('{"record": "step", "step": 5')  # a line that a crash of the machine has cut off

    stderr = ended(command(chosen, "--resume", broken), 0)
    assert f"goes on from {broken / 'checkpoints' / 'step-000000'}" in stderr
    assert losses(broken) == losses(whole)


def test_a_run_goes_on_under_another_plan_in_another_folder(plan: MakePlan, command: Start, tmp_path: Path) -> None:
    keys = ("schedule.ramp_start=4", "schedule.ramp_increment=4", "schedule.ramp_samples=214", "data.documents=apart")
    corpus = tmp_path / "corpus.jsonl"  # of documents that are shorter than a sequence
    corpus.write_text("".join(json.dumps({"text": f"{n % 7} sheep" + n % 5 * "!"}) + "\n" for n in range(500)))
    settings = ["--data", corpus, *(part for key in keys for part in ("--set", key))]
    first = plan(tensor_parallel=2, num_microbatches=2)
    ended(command(first, "--run-dir", tmp_path / "whole", "--set", "checkpoint.keep_every=20", *settings), 0)
    names = [path.name for path in checkpoints_in(tmp_path / "whole" / "checkpoints")]
    assert names == ["step-00000020", "step-00000040", "step-00000050", "step-00000060"]
    pipeline = plan(pipeline_parallel=2, num_microbatches=4)
    source = tmp_path / "whole" / "checkpoints" / "step-00000050"
    stderr = ended(command(pipeline, "--run-dir", tmp_path / "other", "--resume", source, *settings), 0)
    assert "the plan's 8 are reached at step 55" in stderr
    assert "begins at sequence" not in stderr
    joined = ended(command(first, "--run-dir", tmp_path / "joined", "--steps", 1, *settings[:-2]), 0)
    assert "the plan's 8 are not reached in this run" in joined
    assert losses(tmp_path / "joined")[1] != losses(tmp_path / "whole")[1]
    lines = (tmp_path / "other" / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["record"] == "step"]
    assert [record["global_batch"] for record in records] == [4] * 4 + [8] * 6
    found = {record["step"]: record["loss"] for record in records}
    expected = losses(tmp_path / "whole")
    assert found == {step: pytest.approx(expected[step], rel=1e-6) for step in range(51, 61)}
    text = gptplan("sample", tmp_path / "other", "--prompt", "def f(", "--tokens", 20)
    assert text.startswith("def f(")
    assert len(text.encode(errors="replace")) >= len("def f(") + 20
    assert gptplan("sample", tmp_path / "other", "--prompt", "def f(", "--tokens", 20) == text
    gptplan("export-weights", tmp_path / "other", "-o", tmp_path / "weights")
    assert (tmp_path / "weights" / "config.json").is_file()
    short = ("--set", "schedule.stop_after_minutes=0.001")
    begun = ("--run-dir", tmp_path / "new", "--init-from", tmp_path / "weights")
    stderr = ended(command(pipeline, *begun, *short, *settings), 75)
    assert stderr.splitlines()[-1].startswith("its time is over: the run has saved; `gptplan run ")
    assert len(losses(tmp_path / "new")) < STEPS
    assert "a checkpoint takes 521.62 KiB, and " in stderr
    # The first batch with learned weights, not with drawn ones.
    assert losses(tmp_path / "new")[1] < expected[1] - 1.0
    assert losses(tmp_path / "new")[1] < expected[1] - 0.5


def gptplan(*arguments: object) -> str:
    """What a command answers."""
    command = [sys.executable, "-m", "planner.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, errors="replace")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("prepare", "code", "message"),
    [
        (lambda folder: None, 2, "error[CKP001]: there is no complete checkpoint in this folder"),
        (lambda folder: (folder / "checkpoints" / "step-00000010.part").mkdir(parents=True), 2, "not finished"),
    ],
    ids=["none", "part"],
)
def test_what_cannot_be_resumed_is_said_before_anything_starts(
    prepare: Callable[[Path], object], code: int, message: str, plan: MakePlan, command: Start, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    prepare(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    assert message in ended(command(plan(), "--run-dir", tmp_path / "out", "--resume"), code)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".plan"] == before


def test_a_run_whose_ranks_are_killed_has_the_losses_of_one_without_a_break(tmp_path: Path) -> None:
    plan, folder = solve(tmp_path), tmp_path / "out"
    found = disturbed(plan, folder, KILLED_STEPS, kills=KILLS, seed=1, changes=(10, 24))
    assert found.kills == KILLS, found.output
    assert worst_difference(found.losses, undisturbed(plan, tmp_path / "whole", KILLED_STEPS)) < 1e-6
    replans = [one for one in found.events if one["event"] == "replan"]
    assert [(one["before_devices"], one["after_devices"]) for one in replans] == [(4, 2), (2, 4)], found.output
    few, again = read_plan(folder / "plan-1"), read_plan(folder / "plan-2")
    assert (few.layout.num_devices, few.layout.pipeline_parallel) == (2, 2)
    assert few.problem.global_batch == again.problem.global_batch
    assert replans[0]["after_step_s"] == few.predicted.step_s
    assert again == read_plan(folder / "plan") == read_plan(plan)
    restarts = [one for one in found.events if one["event"] == "restart"]
    assert restarts[-1]["restarts"] in {KILLS - 1, KILLS}  # the rank that goes with its device may have saved before
    assert all(0 < one["downtime_s"] < 120 for one in restarts)
    assert "2 devices are there: TP 1 x PP 2" in found.output
    assert "s after the last one: its ranks ended with 137" in found.output
