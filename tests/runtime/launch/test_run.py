"""Whole runs through the launcher: what they write, how they end, what they say when they fail."""

import errno
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from planner.cli import app as cli
from planner.launch import processes
from planner.launch.ranks import Ended
from planner.layouts.layout import Offload
from planner.plans.plan import write_plan
from tests.runtime.family_models import MODELS
from tests.runtime.launched import TIMEOUT_S, MakePlan, Run, ranks_of, wait_for_steps

pytestmark = pytest.mark.runtime


ROOT = Path(__file__).parents[3]


def records(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    "layout",
    [
        {"pipeline_parallel": 2, "num_microbatches": 2, "layers_per_stage": (3, 1)},
        {"data_parallel": 2, "zero_stage": 2, "precision": "bf16"},
        {"sequence_parallel_degree": 2, "model": MODELS["qwen2"]},
    ],
    ids=["pp2", "zero2", "qwen2-all-to-all"],
)
def test_a_run_learns_and_reports(layout: dict[str, Any], plan: MakePlan, start: Run, tmp_path: Path) -> None:
    chosen = plan(**layout)
    # A folder of the name of ours where the user stands must not be imported.
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("raise SystemExit(9)")
    process = start(chosen, steps=30, learning_rate=3e-3)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, stderr
    header, *steps, saved, summary = records(tmp_path)
    assert header["record"] == "header"
    assert (saved["record"], saved["step"]) == ("checkpoint", 30)
    assert header["plan_digest"] == chosen.digest
    assert header["versions"].keys() == {"torch", "colossalai", "transformers"}
    assert [step["step"] for step in steps] == list(range(1, 31))
    assert steps[-1]["loss"] < steps[0]["loss"] - 1.0
    assert [rank["rank"] for rank in summary["ranks"]] == [0, 1]
    assert summary["predicted"]["step_s"] == chosen.predicted.step_s
    assert summary["predicted"]["terms_s"].keys() >= {"compute", "communication", "pipeline", "optimizer"}
    assert all(rank["allocated_bytes"] > 0 for rank in summary["ranks"])
    assert f"loss: {steps[0]['loss']:.4f} at step 1, {steps[-1]['loss']:.4f} at step 30" in stdout
    assert "step time (median)" in stdout
    assert stdout.count("max RSS") == chosen.layout.pipeline_parallel
    assert "step 30/30: loss" in stderr
    assert [rank["rank"] for rank in header["memory"]] == [0, 1]
    assert [step["step"] for step in steps if "memory" in step] == [1, 2, *range(3, 31, 3)]
    assert len([line for line in stderr.splitlines() if not line.startswith("step ")]) == 0, stderr


README_PYTHON = (3, 11, 7)
"""Whose standard library the losses in the README are of; another one's text is much the same."""


def test_the_first_run_of_the_readme_says_what_it_shows(tmp_path: Path) -> None:
    """Losses and predictions; the times that were measured are those of one machine."""
    command = [sys.executable, "-m", "planner.cli", "run", str(ROOT / "plans" / "gpt2-tiny-2xlocal-cpu.plan")]
    command += ["--run-dir", str(tmp_path / "out"), "--set", "checkpoint.every_steps=0"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    printed, shown = (
        [float(loss) for loss in re.findall(r"^loss: (\S+) at step 1, (\S+) at step 50$", text, re.MULTILINE)[0]]
        for text in (done.stdout, readme)
    )
    assert printed == pytest.approx(shown, abs=1e-3 if sys.version_info[:3] == README_PYTHON else 0.1)
    row = r"^(step time \(median\)|stage 0 peak, max RSS) +(\S+ \w+)  +(\S+) \w+  +(\S+) *$"
    printed_rows, shown_rows = (re.findall(row, text, re.MULTILINE) for text in (done.stdout, readme))
    assert [found[:2] for found in printed_rows] == [found[:2] for found in shown_rows]
    for _, predicted, measured, ratio in shown_rows:
        assert f"{float(predicted.split()[0]) / float(measured):.2f}" == ratio


def test_bad_data_is_said_once_with_its_exit_code(plan: MakePlan, start: Run) -> None:
    process = start(plan(data_parallel=2), data="missing.txt")
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, stderr
    assert stderr.startswith("error[RUN006]: there is no such file or folder\n  --> missing.txt\n")
    assert stderr.count("RUN006") == 1
    assert "Traceback" not in stderr
    assert not stdout


def test_a_failing_worker_names_its_rank_and_log(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    # The metrics file cannot be made: only rank 0 fails, and the others must not wait for it. An earlier log stays.
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").mkdir()
    (tmp_path / "out" / "rank0.log").write_text("earlier")
    process = start(plan(data_parallel=2))
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 3, stderr
    assert (tmp_path / "out" / "rank0.log").read_text() == "earlier"
    (log,) = (tmp_path / "out").glob("rank0-*.log")
    assert stderr.startswith(f"error[RUN008]: rank 0 failed with IsADirectoryError\n  --> {log}\n")
    assert stderr.count("error[") == 1
    assert "Traceback" in log.read_text()


def test_a_log_that_cannot_be_written_goes_elsewhere() -> None:
    from runtime.train.worker import _write_log

    try:
        int("some reason")
    except ValueError:
        log = _write_log(Path("/proc/no-folder/rank0"))
    assert log.parent == Path(tempfile.gettempdir())
    assert "ValueError: invalid literal" in log.read_text()
    log.unlink()


def test_an_output_folder_is_tried_before_the_run(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_plan(plan(data_parallel=2), Path("small.plan"))
    Path("taken").touch()
    with pytest.raises(SystemExit) as finished:
        cli.main(["run", "small.plan", "--output", "taken"])
    assert finished.value.code == 2
    stderr = capfd.readouterr().err
    assert stderr.startswith("error[USAGE]: metrics and logs cannot be written there: Not a directory\n  --> taken\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.plan", "taken"]


def test_a_full_drive_is_named(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").symlink_to("/dev/full")
    process = start(plan(data_parallel=2))
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, stderr
    assert stderr.startswith("error[RUN011]: rank 0 cannot write: the drive is full\n")
    assert stderr.count("error[") == 1
    assert "Traceback" not in stderr
    assert ranks_of(tmp_path) == []


SHORT_WRITE = """
import resource, sys
from pathlib import Path
from runtime.train.measure import MetricsFile
resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))
with MetricsFile(Path(sys.argv[1])) as metrics:
    metrics.write("first", text="x" * 40)
    try:
        metrics.write("second", text="x" * 90)
    except OSError as error:
        sys.exit(error.errno)
"""


def test_a_record_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SHORT_WRITE, str(path)], check=False, env=environment)
    assert done.returncode == errno.ENOSPC
    (line,) = path.read_text().splitlines()
    assert json.loads(line).items() >= {"record": "first", "text": "x" * 40}.items()


def test_a_port_in_use_is_named(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(plan(data_parallel=2, devices_per_node=1), rendezvous=f"127.0.0.1:{port}")
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, stderr
    assert f"error[RUN010]: 127.0.0.1:{port} is in use\n" in stderr
    assert "--rendezvous HOST:PORT" in stderr
    assert "Traceback" not in stderr


def test_a_host_that_is_not_known_is_named(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_plan(plan(data_parallel=2, devices_per_node=1), Path("small.plan"))
    with pytest.raises(SystemExit) as finished:
        cli.main(["run", "small.plan", "--rendezvous", "no-such-host.invalid:29500"])
    assert finished.value.code == 1
    assert capfd.readouterr().err.startswith("error[RUN010]: this machine finds no host `no-such-host.invalid`: ")
    assert [path.name for path in tmp_path.iterdir()] == ["small.plan"]


ENDED = 0
"""In the place of the code of a rank that its launcher ended."""


@pytest.mark.parametrize(
    ("exit_codes", "said", "expected"),
    [
        ([3, ENDED], "3\nrank 0 said", (3, "rank 0 said")),
        ([3, -6], "3\nrank 0 said", (3, "rank 0 said")),
        ([3, -9], "3\nlost a peer", (137, "rank 1 was killed by SIGKILL")),
        ([3, -11], "3\nlost a peer", (139, "killed by SIGSEGV")),
        ([ENDED, -6], "", (134, "killed by SIGABRT")),
        ([1, ENDED], "", (1, "")),
    ],
)
def test_the_cause_is_told_from_what_it_caused(exit_codes: list[int], said: str, expected: tuple[int, str]) -> None:
    ended = Ended(codes=tuple(None if code == ENDED else code for code in exit_codes))
    code, words = expected
    found, text = processes._cause(ended, said)
    assert found == code
    assert words in text


def test_an_interrupt_stops_every_worker_and_says_what_is_done(plan: MakePlan, tmp_path: Path) -> None:
    """As from a terminal, with a second run that asks for the same folder meanwhile."""
    write_plan(plan(data_parallel=2), tmp_path / "small.plan")
    command = [sys.executable, "-m", "planner.cli", "run", str(tmp_path / "small.plan"), "--steps", "99999"]
    command += ["--run-dir", str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_for_steps(tmp_path)
    other = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert other.returncode == 2
    assert other.stderr.startswith(f"error[USAGE]: another run has this folder: process {process.pid} on ")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, stderr
    num_steps = sum(record["record"] == "step" for record in records(tmp_path))  # and every line of them is whole
    last = stderr.splitlines()[-1]
    assert last.startswith("ended by SIGINT: every process has ended, and the model was not saved; ")
    assert last.endswith(f"{num_steps} of 99999 steps are done, metrics and logs are in {tmp_path / 'out'}")
    assert "Traceback" not in stderr
    assert ranks_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["verify", "small.plan"], "there is no answer: the layout was not compared to the end"),
        (["calibrate", "-o", "x.toml"], "no spec was written"),
    ],
    ids=["verify", "calibrate"],
)
def test_an_interrupt_of_another_command_says_what_is_lost(
    arguments: list[str], said: str, plan: MakePlan, tmp_path: Path
) -> None:
    write_plan(plan(data_parallel=2), tmp_path / "small.plan")
    process = subprocess.Popen(
        [sys.executable, "-m", "planner.cli", *arguments],
        cwd=tmp_path,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while not any(b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes() for pid in children.read_text().split()):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == f"ended by SIGINT: every process has ended, and {said}"
    assert not stdout
    assert [path.name for path in tmp_path.iterdir()] == ["small.plan"]


def test_a_killed_worker_is_named(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    process = start(plan(data_parallel=2), steps=100_000)
    wait_for_steps(tmp_path)
    os.kill(max(ranks_of(tmp_path)), signal.SIGKILL)
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 137, stderr
    assert "was killed by SIGKILL" in stderr
    assert stderr.count("error[") == 1
    assert ranks_of(tmp_path) == []


def test_workers_end_with_a_killed_launcher(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    process = start(plan(data_parallel=2), steps=100_000)
    wait_for_steps(tmp_path)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)  # until all who write there have ended
    assert ranks_of(tmp_path) == []


@pytest.mark.skipif(importlib.util.find_spec("tensornvme") is None, reason="needs the package tensornvme")
def test_moments_on_a_drive_have_no_name_that_could_stay(plan: MakePlan, start: Run, tmp_path: Path) -> None:
    folder = tmp_path / "moments"
    folder.mkdir()
    offload = Offload(optimizer=1.0, tier="nvme")
    chosen = plan(data_parallel=2, zero_stage=1, precision="bf16", offload=offload)
    process = start(chosen, steps=100_000, nvme_path=folder)
    wait_for_steps(tmp_path)
    held = [str(path.readlink()) for pid in ranks_of(tmp_path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    assert len({one for one in held if one.startswith(str(folder))}) == 2
    assert list(folder.iterdir()) == []  # so that nothing stays, whatever is killed
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
