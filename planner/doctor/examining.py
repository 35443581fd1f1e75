"""The check itself: the nodes meet and tell what they know, then their ranks measure devices and groups."""

import os
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from planner.diagnostics import Diagnostic
from planner.doctor.facts import Asked, Facts, facts_of
from planner.doctor.groups import AxisGroups, MeasuredGroup, axes_of, axes_of_nodes, groups_of, measured_groups
from planner.doctor.judging import FOLDER, Told, is_fatal, of_nodes, of_ranks
from planner.handover.doctor import DoctorFound, DoctorOptions, DoctorWork
from planner.handover.options import encode
from planner.launch.asking import GO, STOP, answer, ask, ask_one, tell
from planner.launch.links import Meeting
from planner.launch.machine import devices_of_node, present_gpus
from planner.launch.placing import meeting_of
from planner.launch.processes import Outcome, Work, execute
from planner.plans.plan import Plan
from planner.specs import Precision

LIMIT_S = 110.0
"""The ranks are ended after it, with what they have found so far."""
CPU_PROCESSES = 2
"""Without a plan and without GPUs."""
REACH_S = 3.0
"""How long a connection to another node may take."""
BUDGETS = {"cuda": (6.0, 25.0, 30.0), "cpu": (2.0, 8.0, 10.0)}
"""Seconds for products and for collectives, and how long a rank may be later than another."""
CPU_TOKENS = 256
"""Rows of a product on a CPU, whose micro batch may take seconds."""
STDERR = 2


def digest_of(plan: Plan | None) -> str:
    """By which the nodes of a check know each other; those of a run do not join them."""
    return "doctor " + ("" if plan is None else plan.digest)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What node 0 knows at the end."""

    facts: list[Facts]
    clocks_s: dict[int, float]
    findings: list[Diagnostic]
    found: DoctorFound
    """Empty where the ranks were not started."""
    groups: list[MeasuredGroup]
    """The links of its groups."""
    num_ranks: int
    per_node: int
    seconds: float


class Examination:
    """One check, seen from one node."""

    def __init__(
        self, plan: Plan | None, location: str, options: DoctorOptions, num_nodes: int, paths: Sequence[str]
    ) -> None:
        """Check the nodes of ``plan``, or ``num_nodes`` alike; ``paths`` are data and tokenizer of the job."""
        self._plan, self._options, self._num_nodes = plan, options, num_nodes
        self._asked = Asked(plan=plan, location=location, paths=tuple(paths), nvme_path=options.nvme_path)
        gpus = present_gpus() if plan is None else []
        self._here = len(gpus) or min(CPU_PROCESSES, os.cpu_count() or 1)
        self._device: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
        if plan is not None:
            self._here = devices_of_node(plan, options.node_rank)
            self._device = plan.problem.hardware.device
        self._per_node = self._here if plan is None else plan.problem.devices_per_node
        self._num_ranks = self._here * num_nodes if plan is None else plan.layout.num_devices
        self._told = Told(plan, [], {}, {}, {}, [])
        self._findings: list[Diagnostic] = []
        self._began_s = time.monotonic()

    def run(self) -> tuple[Outcome, Report]:
        """Meet, tell, measure; the report is that of node 0, and elsewhere has nothing.

        Raises:
            PlanError: the nodes did not meet.
        """
        options = self._options
        digest = digest_of(self._plan)
        with tempfile.TemporaryDirectory(prefix="gptplan-doctor-") as temporary:
            result = Path(temporary) / "found.json"
            work = Work(
                argv=("runtime.doctor.worker", str(result), encode(self._work())),
                num_ranks=self._num_ranks,
                here=self._here,
                first=options.node_rank * self._per_node,
                others=meeting_of(self._num_nodes, digest, options),
                timeout_s=options.rendezvous_timeout,
                env=self._nccl_log(Path(temporary)),
                met=self._met,
                is_done=partial(self._is_done, result),
            )
            outcome = execute(work, stdout=STDERR)
            found, groups = _read(result), []
        if found is not None:
            groups = measured_groups(self._plan, found.groups)
            self._findings += of_ranks(self._plan, found, groups, self._num_ranks, self._per_node)
        report = Report(
            facts=list(self._told.facts),
            clocks_s=self._told.clocks_s,
            findings=self._findings,
            found=found or DoctorFound(),
            groups=groups,
            num_ranks=self._num_ranks,
            per_node=self._per_node,
            seconds=time.monotonic() - self._began_s,
        )
        return outcome, report

    def _work(self) -> DoctorWork:
        products_s, groups_s, patience_s = BUDGETS[self._device]
        axes: list[AxisGroups] = axes_of_nodes(self._num_nodes, self._per_node)
        precision: Precision = "fp32" if self._device == "cpu" else "bf16"
        if self._plan is not None:
            axes = axes_of(self._plan)
            precision = precision if self._device == "cpu" else self._plan.layout.precision
        return DoctorWork(
            device=self._device,
            precision=precision,
            shapes=shapes_of(self._plan, self._device),
            groups=groups_of(axes, self._num_ranks),
            products_s=products_s,
            groups_s=groups_s,
            patience_s=patience_s,
        )

    def _nccl_log(self, folder: Path) -> dict[str, str]:
        if self._device == "cpu":
            return {}
        log = str(folder / "nccl-%p.log")
        return {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_SUBSYS": "INIT,NET,GRAPH", "NCCL_DEBUG_FILE": log}

    def _is_done(self, result: Path, meeting: Meeting | None) -> bool:
        """Whether ranks that are still there are stuck: rank 0 has its answer, or it took too long."""
        over = time.monotonic() - self._met_s > LIMIT_S
        if self._options.node_rank == 0:
            return over or result.is_file()
        return over or meeting is None or all(peer.node is None for peer in meeting.peers)

    def _met(self, meeting: Meeting | None) -> bool:
        """Tell and hear what the nodes know; whether the ranks start."""
        self._met_s = time.monotonic()
        node = self._options.node_rank
        listener = socket.create_server((meeting.address, 0), backlog=1024) if meeting is not None else None
        try:
            own = facts_of(self._asked, node, meeting, listener)
            if meeting is not None and node:
                return answer(meeting, _answers(own))
            self._told = self._hear(own, meeting)
        finally:
            if listener is not None:
                listener.close()
        self._findings += of_nodes(self._told)
        starts = not is_fatal(self._findings)
        if meeting is not None:
            tell(meeting, GO if starts else STOP)
        return starts

    def _hear(self, own: Facts, meeting: Meeting | None) -> Told:
        if meeting is None:
            return Told(self._plan, [own], {}, {}, {}, [])
        told = {node: msgspec.json.decode(text, type=Facts) for node, text in ask(meeting, "facts").items()}
        facts = [own, *(told[node] for node in sorted(told))]
        clocks = {node: ahead for node in sorted(told) if (ahead := _clock_ahead(meeting, node)) is not None}
        where = [(one.node, one.address, one.port) for one in facts]
        reached = {own.node: _unreached(where, own.node)}
        for node, text in ask(meeting, "reach", msgspec.json.encode(where).decode()).items():
            reached[node] = msgspec.json.decode(text, type=list[int])
        silent = [node for node in range(self._num_nodes) if node != own.node and node not in told]
        unseen = self._unseen(meeting)
        return Told(self._plan, facts, clocks, unseen, {node: them for node, them in reached.items() if them}, silent)

    def _unseen(self, meeting: Meeting) -> dict[int, list[str]]:
        """Who does not see a file that node 0 has just made where checkpoints will be."""
        folder = nearest_folder(self._options.run_dir or Path("runs"))
        probe = folder / f".gptplan-doctor-{secrets.token_hex(8)}"
        try:
            probe.touch(exist_ok=False)
        except OSError as error:
            message = f"it cannot write to {folder}: {error.strerror}"
            hint = "name another folder with `--run-dir`"
            self._findings.append(Diagnostic(rule=FOLDER, message=message, location="node 0", hint=hint))
            return {}
        try:
            seen = ask(meeting, "see", msgspec.json.encode(str(probe)).decode())
        finally:
            with suppress(OSError):
                probe.unlink()
        return {node: [str(folder)] for node, text in seen.items() if not msgspec.json.decode(text, type=bool)}


def _answers(own: Facts) -> dict[str, Callable[[str], str]]:
    def reach(data: str) -> str:
        where = msgspec.json.decode(data, type=list[tuple[int, str, int]])
        return msgspec.json.encode(_unreached(where, own.node)).decode()

    return {
        "facts": lambda data: msgspec.json.encode(own).decode(),
        "clock": lambda data: msgspec.json.encode(time.time()).decode(),
        "reach": reach,
        "see": lambda data: msgspec.json.encode(_sees(Path(msgspec.json.decode(data, type=str)))).decode(),
    }


def _sees(path: Path) -> bool:
    """Whether a file is there; a network file system may show a new one only when its folder is read again."""
    with suppress(OSError):
        return path.name in os.listdir(path.parent)  # noqa: PTH208 - names alone
    return False


def _clock_ahead(meeting: Meeting, node: int) -> float | None:
    """How far the clock of a node is ahead of this one, as far as half the way there and back tells."""
    before = time.time()
    text = ask_one(meeting, node, "clock")
    after = time.time()
    return None if text is None else msgspec.json.decode(text, type=float) - (before + after) / 2


def _unreached(where: list[tuple[int, str, int]], own: int) -> list[int]:
    """The nodes to which no connection can be made."""

    def fails(one: tuple[int, str, int]) -> bool:
        try:
            socket.create_connection(one[1:], timeout=REACH_S).close()
        except OSError:
            return True
        return False

    others = [one for one in where if one[0] != own]
    if not others:
        return []
    with ThreadPoolExecutor(min(32, len(others))) as pool:
        return [one[0] for one, failed in zip(others, pool.map(fails, others), strict=True) if failed]


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())


def shapes_of(plan: Plan | None, device: str) -> tuple[tuple[int, int, int], ...]:
    """Products of a layer's first projection as the plan divides it, and smaller ones, by rising FLOP."""
    hidden, tokens, parts = (768, 2048, 1) if device == "cpu" else (8192, 4096, 1)
    if plan is not None:
        layout = plan.layout
        hidden, tokens = plan.problem.model.hidden_size, layout.micro_batch * plan.problem.seq_len
        parts = layout.tensor_parallel if layout.tensor_mode == "1d" else 1
    rows = min(tokens, CPU_TOKENS) if device == "cpu" else tokens
    widths = sorted({max(16, hidden // share) for share in (8, 4, 2, 1)})
    return tuple((rows, width, max(16, 4 * width // parts)) for width in widths)


def _read(result: Path) -> DoctorFound | None:
    """The last that rank 0 wrote; ``None`` if that is nothing, as on other nodes."""
    for path in (result, result.with_suffix(".part")):
        if path.is_file():
            return msgspec.json.decode(path.read_bytes(), type=DoctorFound)
    return None
