"""How runs stand, told from what they left."""

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planner.checkpoints.manifest import MANIFEST
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.work import METRICS_FILE, RunOptions
from planner.launch.folder import LOCK_FILE, run_folder
from planner.launch.runs import runs_in
from planner.plans.plan import read_plan
from tests.helpers import Run
from tests.unit.launch.test_folder import HOLDER, ROOT

BEGAN_S = 1_700_000_000.0
HEADER = {"record": "header", "model": "gpt2", "steps": 30, "num_devices": 2, "plan_digest": "sha256:1"}
SUMMARY = {"record": "summary", "time_s": BEGAN_S + 60}
FAILED = {"record": "event", "event": "end", "time_s": BEGAN_S + 50, "code": 1, "interrupted": False}
ASKED = FAILED | {"code": 75, "interrupted": True}


def made(folder: Path, *more: dict[str, Any], steps: int = 2, began_s: float = BEGAN_S) -> Path:
    """The folder of a run that nobody holds."""
    folder.mkdir(parents=True)
    (folder / "plan").touch()
    since = f"{datetime.datetime.fromtimestamp(began_s, tz=datetime.UTC):%F %T}"
    (folder / LOCK_FILE).write_text(f"process 7 on some-host since {since} UTC")
    records = [HEADER | {"time_s": BEGAN_S + 5}]
    records += [
        {"record": "step", "step": number, "loss": 5.0 - number, "tokens_per_s": 100.0 * number, "time_s": BEGAN_S + 6}
        for number in range(1, steps + 1)
    ]
    (folder / METRICS_FILE).write_text("".join(json.dumps(one) + "\n" for one in [*records, *more]))
    return folder


@pytest.mark.parametrize(
    ("more", "began_s", "state"),
    [
        ((SUMMARY,), BEGAN_S, "finished"),
        ((FAILED,), BEGAN_S, "failed"),
        ((ASKED,), BEGAN_S, "interrupted"),
        ((), BEGAN_S, "interrupted"),
        ((FAILED, HEADER), BEGAN_S, "interrupted"),
        ((FAILED,), BEGAN_S + 100, "interrupted"),
        ((SUMMARY,), BEGAN_S + 100, "interrupted"),
    ],
    ids=["end", "failure", "signal", "killed", "killed later", "killed as it began again", "and with all steps"],
)
def test_the_end_of_a_run_is_that_of_its_last_start(
    more: tuple[dict[str, Any], ...], began_s: float, state: str, tmp_path: Path
) -> None:
    made(tmp_path / "run", *more, began_s=began_s)
    (found,) = runs_in(tmp_path)
    assert found.state == state


def test_a_run_runs_while_its_launcher_lives(tmp_path: Path) -> None:
    folder = made(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder / LOCK_FILE], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert runs_in(folder)[0].state == "running"
        holder.kill()
    assert runs_in(folder)[0].state == "interrupted"


def test_a_refusal_before_the_first_step_is_a_failure(tmp_path: Path) -> None:
    plan = read_plan(ROOT / "plans" / "gpt2-vanilla.plan")

    def refuse() -> None:
        with run_folder(plan, "some", RunOptions(output=tmp_path)):
            assert runs_in(tmp_path)[0].state == "running"
            raise PlanError(Diagnostic(rule="USAGE", message="no"), exit_code=ExitCode.USAGE)

    with pytest.raises(PlanError):
        refuse()
    (found,) = runs_in(tmp_path)
    assert (found.folder.parent, found.plan, found.state, found.step) == (tmp_path / "some", "some", "failed", 0)
    assert found.started_s == pytest.approx(time.time(), abs=60)


def test_runs_are_listed(gptplan: Run, tmp_path: Path) -> None:
    assert gptplan("runs").err == "there are no runs in runs\n"
    assert (gptplan("runs", "nowhere").code, gptplan("runs", "--json").document()) == (2, [])
    folder = made(tmp_path / "runs" / "small" / "20231114T221320Z", SUMMARY)
    made(tmp_path / "runs" / "small" / "20231114T221320Z-node1")
    other = made(tmp_path / "runs" / "mine", steps=0)
    with (folder / METRICS_FILE).open("a") as metrics:
        metrics.write('{"record": "step", "st')
    for name in ("step-00000001", "step-00000002", "step-00000003.part"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / MANIFEST).touch()
    (folder / "checkpoints" / "step-00000004").mkdir()
    second, first = gptplan("runs", "--json").document()
    assert first == {
        "folder": "runs/small/20231114T221320Z",
        "plan": "small",
        "plan_digest": "sha256:1",
        "num_devices": 2,
        "started_s": BEGAN_S + 5,
        "state": "finished",
        "step": 2,
        "steps": 30,
        "loss": 3.0,
        "tokens_per_s": 150.0,
        "checkpoint": "runs/small/20231114T221320Z/checkpoints/step-00000002",
    }
    assert (second["folder"], second["plan"], second["loss"]) == (str(other.relative_to(tmp_path)), "gpt2", None)
    row = gptplan("runs", "runs/small").out.splitlines()[1]
    assert " ".join(row.split()).endswith(
        "small 2023-11-14 22:13 finished 2 of 30 3.0000 150 tokens/s step-00000002"
    ), row
