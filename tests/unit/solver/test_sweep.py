"""Sweeps: the rows of a grid, and the command."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from planner.cli import app as cli
from planner.cli.sweep import Sweep, sweep
from planner.plans.grid import Point, grid, parse_axes
from planner.plans.question import Question, build_problem
from planner.solver import parallel, solve
from planner.solver.sweep import COLUMNS, Row, answer_point

ROOT = Path(__file__).parents[3]
SMALL = {"model": "gpt2-small"}


def test_a_row_is_the_answer_to_its_question() -> None:
    (point,) = grid(SMALL, parse_axes(["gpus=8"]))
    row, answer = answer_point(point), solve(build_problem(Question(model="gpt2-small", gpus=8)))
    assert answer.plan is not None
    assert (row.status, row.step_s, row.gap) == ("optimal", answer.plan.predicted.step_s, 0)
    assert (row.tensor_parallel, row.data_parallel) == (
        answer.plan.layout.tensor_parallel,
        answer.plan.layout.data_parallel,
    )
    assert row.fullest_stage_bytes == max(stage.peak_bytes for stage in answer.plan.predicted.stages)
    assert row.rules == ()


def test_an_infeasible_row_names_the_rules() -> None:
    (point,) = grid({"model": "gpt3"}, parse_axes(["gpus=16"]))
    row = answer_point(point)
    assert (row.status, row.step_s, row.tensor_parallel) == ("infeasible", None, None)
    assert "MEM001" in row.rules


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", 8, "--vary", "node_lnk=1GB/s"), "did you mean `node_link`?"),
        (("--gpus", 8, "--vary", "tensor_parallel=4"), "use one of gpus, gpu, model"),
        (("--gpus", 8, "--vary", "network"), "is not key=value,value"),
        (("--gpus", 8, "--vary", "network=fast"), "`fast` is no value of network"),
        (("--gpus", 8, "--vary", "precision=fp8"), "`fp8` is no value of precision: use one of fp16, bf16, fp32"),
        (("--vary", "gpus=8,1e3"), "`1e3` is no value of gpus: it is no whole number"),
        (("--vary", "gpus=8,,16"), "a value of gpus is empty"),
        (("--vary", "gpus=8,0"), "gpus has to be from 1 to 131072, and it is 0\n  --> --vary gpus=0"),
        (("--vary", "gpus=8", "--vary", "gpus=16"), "`gpus` is varied twice"),
        (("--gpus", 8, "--vary", "gpus=16"), "--gpus is given and varied"),
        (("--vary", "gpu=a100-40g"), "no gpus is given"),
        (("--gpus", 8, "--vary", "gpu=a100"), "there is no hardware spec named `a100`"),
        (("--vary", "gpus=8", "--jobs", 0), "--jobs has to be at least 1"),
        (("--vary", "gpus=8", "--time-limit", 0), "--time-limit has to be above 0"),
        (("--vary", "gpus=8", "--out", "missing/rows.csv"), "no such folder"),
        (("--vary", "gpus=8", "--out", "."), "this is a folder"),
        (("--vary", f"gpus={','.join(map(str, range(1, 10_002)))}"), "10,001 points"),
    ],
    ids=lambda value: " ".join(map(str, value))[:60] if isinstance(value, tuple) else "",
)
def test_bad_options_get_one_message(
    options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as finished:
        cli.main(["sweep", "--model", "gpt2-small", *map(str, options)])
    captured = capsys.readouterr()
    assert finished.value.code == 2
    assert message in captured.err
    assert captured.err.count("error[") == 1
    assert captured.out == ""


def test_the_command_prints_a_table_and_writes_the_csv(tmp_path: Path) -> None:
    vary = ("--vary", "gpus=16,96", "--vary", "gpu=a100-40g,a100-80g", "--jobs", "2")
    result = gptplan("sweep", "--model", "gpt3", *vary, "--out", "rows.csv", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["gpus", "gpu", "status"]
    assert [line.split()[2] for line in lines[1:]] == ["infeasible", "infeasible", "optimal", "optimal"]
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["gpus", "gpu", *COLUMNS]
    assert [(row["gpus"], row["status"]) for row in rows] == [
        ("16", "infeasible"),
        ("16", "infeasible"),
        ("96", "optimal"),
        ("96", "optimal"),
    ]
    assert "MEM001" in rows[0]["rules"].split()
    assert float(rows[3]["step_s"]) < float(rows[2]["step_s"])


def gptplan(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "planner.cli.app", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_json_has_a_row_for_each_point(tmp_path: Path) -> None:
    result = gptplan("sweep", "--model", "gpt3", "--vary", "gpus=8,16", "--json", cwd=tmp_path)
    assert result.returncode == 1
    document = json.loads(result.stdout)
    assert (document["complete"], document["points"]) == (True, 2)
    assert [row["varied"] for row in document["rows"]] == [{"gpus": "8"}, {"gpus": "16"}]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def one_and_interrupt(
        given: object, found: Sequence[Point], rows: dict[int, Row], *_: object, **more: object
    ) -> None:
        rows[1] = answer_point(found[1])
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel, "answer", one_and_interrupt)
    options = Sweep(vary=("gpus=2,4,8",), model="gpt2-small", out=tmp_path / "rows.csv")
    assert sweep(options) == 130
    captured = capsys.readouterr()
    assert captured.err == "interrupted after 1 of 3 points\n"
    assert len(captured.out.splitlines()) == 2
    assert len((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()) == 2


def test_processes_of_a_sweep_never_get_ctrl_c() -> None:
    """They would answer it with a traceback each, some before any code of ours runs in them."""
    blocked = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with parallel._keeping_interrupts():
        inside = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    outside = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True, check=True)
    assert (inside.stdout, outside.stdout) == ("True\n", "False\n")


HEEDS_INTERRUPTS = """
import signal, sys
from planner.cli import app as cli
signal.signal(signal.SIGINT, signal.default_int_handler)
cli.main(sys.argv[1:])
"""


def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    """The signal goes to the whole group of processes, as a terminal sends it."""
    counts = ",".join(map(str, range(1024, 1624)))
    command = [sys.executable, "-c", HEEDS_INTERRUPTS, "sweep", "--model", "gpt3", "--vary", f"gpus={counts}"]
    command += ["--jobs", "1", "--json"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        begun = time.monotonic()
        while subprocess.run(["pgrep", "-P", str(process.pid)], stdout=subprocess.DEVNULL, check=False).returncode:
            assert process.poll() is None
            assert time.monotonic() - begun < 60
            time.sleep(0.1)
        with pytest.raises(subprocess.TimeoutExpired):  # the worker has begun, on a busy machine perhaps late
            process.communicate(timeout=4)
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 10
    assert process.returncode == 130
    document = json.loads(out)
    assert not document["complete"]
    assert err == f"interrupted after {len(document['rows'])} of 600 points\n"


def test_a_table_replaces_one_of_its_own_and_no_other_file(tmp_path: Path) -> None:
    asked = ("sweep", "--model", "gpt2-tiny", "--gpu", "local-cpu", "--vary", "gpus=1,2", "--out", "rows.csv")
    rows = tmp_path / "rows.csv"
    rows.write_text("mine")
    refused = gptplan(*asked, cwd=tmp_path)
    assert (refused.returncode, "there is a file already" in refused.stderr, refused.stdout) == (2, True, "")
    assert rows.read_text() == "mine"
    for more in (("--force",), ("--jobs", "1")):
        assert gptplan(*asked, *more, cwd=tmp_path).returncode == 0
        assert rows.read_text().startswith("gpus,status,step_s,")
    full = gptplan(*asked[:-1], "/dev/full", cwd=tmp_path)
    assert (full.returncode, "cannot write the table: No space left on device" in full.stderr) == (2, True)
    assert "optimal" in full.stdout
    document = json.loads(gptplan(*asked[:-1], "/dev/full", "--json", cwd=tmp_path).stdout)
    assert (document["error"]["rule"], len(document["rows"])) == ("USAGE", 2)
