"""Ctrl-C while CP-SAT searches ends the search with the best layout so far."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ortools.sat.python import cp_model

from planner.plans.plan import read_plan
from planner.solver import solve
from planner.solver.interrupt import interruptible
from tests.helpers import problem, slow_hardware

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _heeds_interrupts() -> Iterator[None]:
    """Ctrl-C raises as usual, also where these tests were started by something that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_soon(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """CP-SAT that is interrupted when it begins and searches until it is stopped; what it was told."""
    stopped, events = threading.Event(), []

    def search(solver: cp_model.CpSolver, model: cp_model.CpModel) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(timeout=30)
        events.append("ended")
        return cp_model.UNKNOWN

    def stop(solver: cp_model.CpSolver) -> None:
        events.append("stop")
        stopped.set()

    monkeypatch.setattr(cp_model.CpSolver, "solve", search)
    monkeypatch.setattr(cp_model.CpSolver, "stop_search", stop)
    return events


def test_an_interrupt_stops_the_search_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = problem(hardware=slow_hardware())
    best, events = solve(asked), interrupt_soon(monkeypatch)
    before = signal.getsignal(signal.SIGINT)
    answer = solve(asked)
    assert signal.getsignal(signal.SIGINT) is before
    assert {*events} == {"stop", "ended"}
    assert answer.status == "feasible"
    assert answer.plan is not None
    assert answer.objective is not None
    assert answer.bound is not None
    assert best.objective is not None
    assert answer.bound <= best.objective <= answer.objective
    assert answer.gap == pytest.approx((answer.objective - answer.bound) / answer.objective)


def test_an_exception_of_the_search_is_raised() -> None:
    def broken() -> None:
        raise ZeroDivisionError("in the search")

    with pytest.raises(ZeroDivisionError, match="in the search"):
        interruptible(broken, stop=broken)


def test_other_threads_leave_the_handler_alone() -> None:
    answers = []
    thread = threading.Thread(target=lambda: answers.append(solve(problem(hardware=slow_hardware()))))
    thread.start()
    thread.join()
    assert [answer.status for answer in answers] == ["optimal"]


SEARCH_UNTIL_STOPPED = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from ortools.sat.python import cp_model
from planner.cli import app as cli
stopped = threading.Event()
def search(solver, model):
    print("searching", file=sys.stderr, flush=True)
    stopped.wait(30)
    return cp_model.UNKNOWN
cp_model.CpSolver.solve = search
cp_model.CpSolver.stop_search = lambda solver: stopped.set()
cli.main(sys.argv[1:])
"""

SEARCH_NOTHING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from planner.cli import app as cli
from planner.solver import search
def enumerate_forever(problem, **_):
    print("searching", file=sys.stderr, flush=True)
    time.sleep(30)
search.enumerate_layouts = enumerate_forever
cli.main(sys.argv[1:])
"""


def interrupted(script: str, path: Path) -> subprocess.CompletedProcess[str]:
    """A solve that gets SIGINT once it searches."""
    command = [sys.executable, "-c", script, "solve", "--model", "gpt2-small", "--gpus", "8", "-o", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "searching\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def test_ctrl_c_writes_the_best_plan_so_far(tmp_path: Path) -> None:
    result = interrupted(SEARCH_UNTIL_STOPPED, tmp_path / "best.plan")
    assert result.returncode == 0, result.stderr
    assert "feasible, at most" in result.stdout
    assert read_plan(tmp_path / "best.plan").evidence.status == "feasible"


def test_an_interrupt_before_the_search_begins_keeps_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a large model is built for CP-SAT, layouts are ranked already."""
    asked = problem(hardware=slow_hardware())
    best = solve(asked)

    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr("planner.solver.choice.ChoiceModel._add_limits", interrupted)
    answer = solve(asked)
    assert (answer.status, answer.plan is not None) == ("feasible", True)
    assert answer.bound is not None
    assert best.objective is not None
    assert answer.objective is not None
    assert answer.bound <= best.objective <= answer.objective


def test_ctrl_c_before_a_layout_is_found_says_so(tmp_path: Path) -> None:
    result = interrupted(SEARCH_NOTHING, tmp_path / "none.plan")
    assert result.returncode == 130
    assert result.stderr == "interrupted before a layout was found; no plan was written\n"
    assert result.stdout == ""
    assert not (tmp_path / "none.plan").exists()


INTERRUPTED_AFTER_REASONS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from planner.plans.question import Question, build_problem
from planner.solver import solve
assert solve(build_problem(Question(model="gpt3", gpus=97))).status == "infeasible"
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("python was asked")
"""


def test_looking_for_reasons_leaves_ctrl_c_to_python() -> None:
    command = [sys.executable, "-c", INTERRUPTED_AFTER_REASONS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "python was asked\n"), result.stderr
