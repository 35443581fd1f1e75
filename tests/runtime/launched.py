"""Runs that tests start as a person does, in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.plans.plan import Plan, write_plan

MakePlan = Callable[..., Plan]
Run = Callable[..., "subprocess.Popen[str]"]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 90
RUNNER = """
import sys
from pathlib import Path, PosixPath
from planner.handover.work import RunOptions
from planner.cli.ending import exit_code
from planner.launch.folder import run_folder
from planner.launch.jobs import job_of, make_ready, write_job
from planner.launch.processes import execute, training
from planner.plans.plan import read_plan
path, options = Path(sys.argv[1]), eval(sys.argv[2])
try:
    options["settings"] = (sys.argv[3], *options.get("settings", ()))
    options, plan = RunOptions(**{"run_dir": path.parent / "out"} | options), read_plan(path)
    ready = make_ready(job_of(options, {}), plan)
    with run_folder(plan, "small", options, force=True) as folder:
        write_job(ready, folder, force=True)
        code = execute(training(plan, folder, options)).code
except BaseException as error:
    code = exit_code(error)
sys.exit(code)
"""


def starting(tmp_path: Path) -> Iterator[Run]:
    """``start(plan, **options)`` is a process that runs the plan, away from the checkout.

    ``within`` is a command that starts another one somewhere.
    """
    started = []

    def run(plan: Plan, *, within: Sequence[str] = (), **options: Any) -> "subprocess.Popen[str]":
        path = tmp_path / "small.plan"
        write_plan(plan, path)
        cache = f"data.cache={ROOT / '.pytest_cache' / 'tokens'}"
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [*within, sys.executable, "-c", RUNNER, str(path), repr(options), cache],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": python_path},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=TIMEOUT_S)


def wait_for_steps(tmp_path: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    path = tmp_path / "out" / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def records(folder: Path, kind: str = "step") -> list[dict[str, Any]]:
    """The records of the run in the folder so far; the last line may be half written."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [one for one in found if one["record"] == kind]


def ranks_of(tmp_path: Path) -> list[int]:
    """Process ids of the workers that run this test's plan."""
    found = subprocess.run(
        ["pgrep", "-f", f"runtime.train.worker {tmp_path / 'out'}"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]
