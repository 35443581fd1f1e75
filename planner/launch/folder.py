"""The folder of one run: a new or an empty one, which its launcher holds until it ends, however it ends.

On several nodes each launcher has a folder of its own. That of node 0 has the metrics.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from planner.checkpoints.folders import CHECKPOINTS, later_than
from planner.diagnostics import PlanError, usage_error
from planner.handover.metrics import read_records
from planner.handover.work import (
    JOB_FILE,
    METRICS_FILE,
    PLAN_FILE,
    REPORT_FILE,
    REWIND_FILE,
    SOURCES_FILE,
    TENSORBOARD_FOLDER,
    WANDB_FOLDER,
    RunOptions,
)
from planner.outputs import say, write_output
from planner.plans.plan import Plan, canonical_json

RUNS = Path("runs")
LOCK_FILE = ".lock"
EARLIER = "before-"
"""Begins the name of a folder inside that of a run, with checkpoints that the run no longer comes from."""
_OF_NODES = re.compile(r"node\d+")
_MOST_NAMED = 3
_HINT = "name a new or an empty folder with `--run-dir`, or leave it out"


def check_run_dir(options: RunOptions, *, force: bool = False) -> None:
    """Refuse a folder that a run cannot have, before anything is made; with ``force`` not for the files in it.

    Raises:
        PlanError: ``--run-dir`` names no folder, or one that has files or is held by another run.
    """
    if options.run_dir is None:
        return
    if options.output is not None:
        raise usage_error("--run-dir names the folder of the run", location="--output", hint="leave `--output` out")
    folder = _of_node(options.run_dir, options.node_rank)
    with _told(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise usage_error("this is no folder", location=f"--run-dir {folder}", hint=_HINT)
        if (folder / LOCK_FILE).exists():
            with (folder / LOCK_FILE).open("r+") as lock:
                _lock(lock.fileno(), folder)
        if not force:
            _refuse_files(folder)


@contextmanager
def run_folder(
    plan: Plan, name: str, options: RunOptions, *, force: bool = False, goes_on: bool = False, done: int = 0
) -> Iterator[Path]:
    """The folder of a run of ``plan``, with the plan in it; nobody else gets it until this ends.

    It is held by a lock of the kernel, which goes with this process. Checkpoints after ``done`` steps, which an earlier
    run has left in it, are put aside: among them the new ones would be taken for old, and removed.

    Args:
        plan: what runs.
        name: what the plan is called.
        options: of the run; ``--run-dir`` names the folder, else it is a new one.
        force: use a folder that has files.
        goes_on: use the folder of an earlier run, whose metrics stay.
        done: steps that it goes on after; 0 where it begins anew.

    Raises:
        PlanError: another run has it, it has files, or it cannot be written.
    """
    with _told(options.run_dir or options.output or RUNS):
        if options.run_dir is None:
            folder = _new((options.output or RUNS) / (name.strip(".") or "plan"), options.node_rank)
        else:
            folder = _of_node(options.run_dir, options.node_rank)
            folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with _told(folder):
            _lock(descriptor, folder)
            if not force and not goes_on:
                _refuse_files(folder)
            if not options.node_rank:
                _put_aside(folder, done)
            if (folder / METRICS_FILE).is_file() and not goes_on:
                (folder / METRICS_FILE).unlink()  # whose steps are none of this run
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()} since {_now():%F %T} UTC".encode())
        write_output(canonical_json(plan), folder / PLAN_FILE, what="plan", force=force or goes_on, option="--run-dir")
        try:
            yield folder
        except PlanError as error:
            if not options.node_rank:
                with contextlib.suppress(OSError):
                    note_event(folder, "end", code=int(error.exit_code), interrupted=False)
            raise
    finally:
        os.close(descriptor)


def _put_aside(folder: Path, done: int) -> None:
    """Move checkpoints after ``done`` steps into a run's folder of their own, with what was recorded of them."""
    later = later_than(folder / CHECKPOINTS, done)
    if not later:
        return
    aside = next(path for number in count(1) if not (path := folder / f"{EARLIER}{number}").exists())
    (aside / CHECKPOINTS).mkdir(parents=True)
    for name in (PLAN_FILE, JOB_FILE, SOURCES_FILE, METRICS_FILE, LOCK_FILE):
        if (folder / name).is_file():
            shutil.copy2(folder / name, aside / name)
    for path in later:
        path.rename(aside / CHECKPOINTS / path.with_suffix("").name)
    names = ", ".join(path.with_suffix("").name for path in later)
    where = f"goes on after step {done}" if done else "begins anew"
    say(f"this run {where}: {names} of the one before are in {aside} now, and `--resume {aside}` goes on from them")


def never_stepped(options: RunOptions) -> bool:
    """Whether ``--run-dir`` has nothing but what a run has left that ended before its first step."""
    if options.run_dir is None:
        return False
    folder = _of_node(options.run_dir, options.node_rank)
    with _told(folder):
        if not (folder / LOCK_FILE).is_file() or not all(map(_is_ours, _others(folder))):
            return False
        return not (options.run_dir / CHECKPOINTS).exists() and not steps_done(options.run_dir)


def steps_done(folder: Path) -> int:
    """How many steps the metrics in a folder have; a line that was cut off is none."""
    return sum(record["record"] == "step" for record in read_records(folder / METRICS_FILE))


def note_event(folder: Path, event: str, **fields: Any) -> None:
    """Append an event to the metrics in a folder, which no rank writes to now."""
    line = json.dumps({"record": "event", "event": event, "time_s": time.time(), **fields}).encode() + b"\n"
    path = folder / METRICS_FILE
    torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("ab") as file:
        file.write(b"\n" * bool(torn) + line)


def _now() -> datetime.datetime:
    return datetime.datetime.now(tz=datetime.UTC)


def _of_node(folder: Path, node_rank: int) -> Path:
    return folder / f"node{node_rank}" if node_rank else folder


def _new(parent: Path, node_rank: int) -> Path:
    """A folder that nobody had: its name sorts by the time of its start."""
    started = f"{_now():%Y%m%dT%H%M%SZ}"
    for number in count(1):
        folder = parent / (started + f"-{number:02}" * (number > 1) + f"-node{node_rank}" * (node_rank > 0))
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.exists():  # a folder above it is a file
                raise
        else:
            return folder
    raise AssertionError


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        raise usage_error(
            f"another run has this folder: {holder}", location=f"--run-dir {folder}", hint=_HINT
        ) from None


def _others(folder: Path) -> list[str]:
    """Names in the folder of a run, but for its lock and the folders of other nodes."""
    names = sorted(path.name for path in folder.iterdir())
    return [name for name in names if name != LOCK_FILE and not _OF_NODES.fullmatch(name)]


def _is_ours(name: str) -> bool:
    ours = {PLAN_FILE, JOB_FILE, SOURCES_FILE, METRICS_FILE, REWIND_FILE, REPORT_FILE, CHECKPOINTS}
    ours |= {TENSORBOARD_FOLDER, WANDB_FOLDER}
    return name in ours or name.endswith(".log") or name.startswith((f"{PLAN_FILE}-", EARLIER))


def _refuse_files(folder: Path) -> None:
    others = _others(folder)
    if not others:
        return
    if all(map(_is_ours, others)):
        message = "there is a run in this folder already"
    else:
        more = len(others) - _MOST_NAMED
        message = f"this folder has other files: {', '.join(others[:_MOST_NAMED])}" + f" and {more} more" * (more > 0)
    raise usage_error(message, location=f"--run-dir {folder}", hint=f"{_HINT}, or add `--force` to write into this one")


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say what the operating system refuses."""
    try:
        yield
    except PlanError:
        raise
    except OSError as error:
        raise usage_error(
            f"metrics and logs cannot be written there: {error.strerror}",
            location=str(folder),
            hint="name another folder with `--run-dir`",
        ) from error
