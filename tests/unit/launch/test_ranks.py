"""Ranks end together, and with whatever started them. They are plain interpreters here, without PyTorch."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from planner.launch import ranks
from planner.launch.ranks import Command, Ended, run_ranks

ROOT = Path(__file__).parents[3]
SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
LAUNCHER = """
import sys
from planner.launch.ranks import Command, run_ranks
run_ranks([Command(argv=(sys.executable, "-c", text), env={}) for text in sys.argv[1:]])
"""
"""A launcher of ranks that do what its arguments say."""


def run(*texts: str) -> Ended:
    return run_ranks([Command(argv=(sys.executable, "-c", text), env={}) for text in texts])


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody waits for any more does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(paths: Sequence[Path], timeout_s: float = 20.0) -> list[int]:
    """The process numbers that ranks leave in files."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if all(path.exists() and path.read_text() for path in paths):
            return [int(path.read_text()) for path in paths]
        time.sleep(0.02)
    raise AssertionError(f"none of {paths} within {timeout_s} s")


def gone_within(pids: Sequence[int], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))


def noted(path: Path, then: str = SLEEP) -> str:
    return f"import os, pathlib; pathlib.Path({str(path)!r}).write_text(str(os.getpid())); {then}"


def test_ranks_that_end_well() -> None:
    assert run("pass", "pass") == Ended(codes=(0, 0))


def test_the_first_failure_ends_the_others() -> None:
    begun = time.monotonic()
    ended = run("raise SystemExit(7)", SLEEP)
    assert ended.codes == (7, None)
    assert ended.killed is None
    assert time.monotonic() - begun < ranks.FAILED_TIMEOUT_S + 2


def test_who_has_saved_waits_for_the_others() -> None:
    ended = run("raise SystemExit(75)", "import time; time.sleep(0.5); raise SystemExit(75)")
    assert ended.codes == (75, 75)


def test_a_killed_rank_is_told_with_its_signal() -> None:
    ended = run(SLEEP, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert ended.killed == (1, signal.SIGKILL)


def test_who_aborts_for_want_of_a_peer_is_not_the_one_that_was_killed() -> None:
    ended = Ended(codes=(-signal.SIGABRT, None, -signal.SIGKILL))
    assert ended.killed == (2, signal.SIGKILL)


def test_who_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "FAILED_TIMEOUT_S", 0.5)
    begun = time.monotonic()
    run("import time; time.sleep(0.5); raise SystemExit(1)", STUBBORN)
    assert time.monotonic() - begun < 5


def test_what_a_rank_started_ends_with_it(tmp_path: Path) -> None:
    helper = tmp_path / "helper"
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {noted(helper)!r}])"
    waiting = f"{start}; import pathlib, time\nwhile not pathlib.Path({str(helper)!r}).exists(): time.sleep(0.05)"
    run(f"{waiting}\nraise SystemExit(1)", SLEEP)
    assert gone_within(wait_for([helper]), 5)


def test_another_node_ends_the_ranks() -> None:
    reasons = iter(["", "", "node 1 has gone"])
    ended = run_ranks([Command(argv=(sys.executable, "-c", SLEEP), env={})], why_end=lambda: next(reasons))
    assert ended == Ended(codes=(None,), reason="node 1 has gone")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_launcher_ends_the_ranks(number: signal.Signals) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()
    assert run(SLEEP, SLEEP).signal == number


def test_handlers_of_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("pass")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("text", [SLEEP, STUBBORN])
def test_nothing_outlives_a_killed_launcher(text: str, tmp_path: Path) -> None:
    files = [tmp_path / "0", tmp_path / "1"]
    command = [sys.executable, "-c", LAUNCHER, *(noted(file, text) for file in files)]
    launcher = subprocess.Popen(command, cwd=ROOT)
    pids = wait_for(files)
    launcher.kill()
    launcher.wait()
    assert gone_within(pids, 5)


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.2, 0.4])
def test_nothing_outlives_a_launcher_that_is_killed_while_it_starts(delay_s: float, tmp_path: Path) -> None:
    files = [tmp_path / "0", tmp_path / "1"]
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, *map(noted, files)], cwd=ROOT)
    time.sleep(delay_s)
    launcher.kill()
    launcher.wait()
    time.sleep(1.0)
    begun = [int(file.read_text()) for file in files if file.exists() and file.read_text()]
    assert gone_within(begun, 5)


def test_a_rank_inherits_the_descriptors_that_it_is_given() -> None:
    reader, writer = os.pipe()
    run_ranks(
        [Command(argv=(sys.executable, "-c", f"import os; os.write({writer}, b'here')"), env={}, keep_fds=(writer,))]
    )
    assert os.read(reader, 10) == b"here"
    os.close(reader)
    os.close(writer)
