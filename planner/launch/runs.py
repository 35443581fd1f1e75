"""The runs in a folder, and how each of them stands: told from its lock, its metrics and its checkpoints."""

import datetime
import fcntl
import re
import statistics
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec

from planner.checkpoints.folders import CHECKPOINTS, checkpoints_in
from planner.diagnostics import usage_error
from planner.handover.metrics import read_records
from planner.handover.work import METRICS_FILE, PLAN_FILE
from planner.launch.folder import LOCK_FILE, RUNS

State = Literal["running", "finished", "interrupted", "failed"]

RECENT_STEPS = 20
"""Steps whose median is the speed of a run."""
_OF_OTHER_NODE = re.compile(r"(.*-)?node\d+")
_SINCE = re.compile(r"since (\S+ \S+) UTC")


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands."""

    folder: Path
    plan: str
    """The name of the plan's file, or of its model where the folder does not tell."""
    plan_digest: str
    num_devices: int
    started_s: float | None
    """Unix time of the first start."""
    state: State
    step: int
    """Steps that are done."""
    steps: int
    """Steps that it is to have; 0 where that is not known yet."""
    loss: float | None
    tokens_per_s: float | None
    checkpoint: Path | None
    """The newest complete one."""

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {key: str(one) if isinstance(one, Path) else one for key, one in msgspec.structs.asdict(self).items()}


def runs_in(folder: Path) -> list[RunSummary]:
    """Every run in a folder or two below it, the oldest first.

    Raises:
        PlanError: there is no such folder.
    """
    if not folder.is_dir() and folder != RUNS:
        raise usage_error(
            "there is no such folder", location=str(folder), hint="name one that `gptplan run -o` or `--run-dir` made"
        )
    found = [summary(one, read_records(one / METRICS_FILE)) for one in _run_folders(folder)]
    return sorted(found, key=lambda one: (one.started_s or 0.0, str(one.folder)))


def _run_folders(folder: Path) -> Iterator[Path]:
    if is_run(folder):
        yield folder
        return
    for path in chain(folder.glob("*"), folder.glob("*/*")):
        if is_run(path) and not _OF_OTHER_NODE.fullmatch(path.name):
            yield path


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / PLAN_FILE).is_file() and (folder / LOCK_FILE).is_file()


def summary(folder: Path, records: Sequence[dict[str, Any]]) -> RunSummary:
    """How the run in ``folder`` stands, with these records."""
    headers = [one for one in records if one["record"] == "header"]
    steps = [one for one in records if one["record"] == "step"]
    header = headers[-1] if headers else {}
    began_s = _began_s(folder)
    losses = [one["loss"] for one in steps if one["loss"] is not None]
    speeds = [one["tokens_per_s"] for one in steps if "tokens_per_s" in one][-RECENT_STEPS:]
    return RunSummary(
        folder=folder,
        plan=folder.parent.name if _is_named_by_time(folder) else header.get("model", ""),
        plan_digest=header.get("plan_digest", ""),
        num_devices=header.get("num_devices", 0),
        started_s=headers[0].get("time_s", began_s) if headers else began_s,
        state="running" if _is_held(folder) else _ended(records, began_s),
        step=max((one["step"] for one in steps), default=0),
        steps=header.get("steps", 0),
        loss=losses[-1] if losses else None,
        tokens_per_s=statistics.median(speeds) if speeds else None,
        checkpoint=next(reversed(checkpoints_in(folder / CHECKPOINTS)), None),
    )


def _is_named_by_time(folder: Path) -> bool:
    return re.match(r"\d{8}T\d{6}Z", folder.name) is not None


def _is_held(folder: Path) -> bool:
    """Whether a process holds the folder: the kernel lets a lock go with its process, however that ended."""
    with (folder / LOCK_FILE).open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _began_s(folder: Path) -> float | None:
    """Unix time of the last start, in whole seconds, as its launcher has left it."""
    match = _SINCE.search((folder / LOCK_FILE).read_text(encoding="utf-8", errors="replace"))
    if match is None:
        return None
    return datetime.datetime.fromisoformat(match[1]).replace(tzinfo=datetime.UTC).timestamp()


def _ended(records: Sequence[dict[str, Any]], began_s: float | None) -> State:
    """How a run ended that nobody holds: what its last start has said of its end, if that start came to say it."""
    for one in reversed(records):
        is_end = one["record"] == "summary" or one.get("event") == "end"
        if one["record"] == "header" or (is_end and one.get("time_s", 0) < (began_s or 0)):
            return "interrupted"
        if is_end:
            return "finished" if one["record"] == "summary" else "interrupted" if one["interrupted"] else "failed"
    return "interrupted"
