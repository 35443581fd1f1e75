"""What the ranks of this node execute, and executing it: from a plan to the processes of a group and how they ended."""

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from planner.diagnostics import Diagnostic, ExitCode, render
from planner.handover.options import encode
from planner.handover.work import (
    FAILURE_FILE,
    LISTENER,
    NVME_FOLDER,
    OUT_OF_MEMORY_FILE,
    STORE,
    Beginning,
    CalibrationWork,
    RunOptions,
    SampleOptions,
    VerifyOptions,
)
from planner.launch.links import MOST_LINE_BYTES, Endpoint, Meeting, Message, interface_of
from planner.launch.logs import kept_stderr, last_lines
from planner.launch.machine import devices_of_node, present_gpus
from planner.launch.meeting import Run, meet
from planner.launch.placing import meeting_of
from planner.launch.ranks import TOGETHER, Command, Ended, Interrupted, interruptible, run_ranks
from planner.outputs import say
from planner.plans.plan import Plan

CAUSE_WAIT_S = 5.0
"""How long another node may take to say that it was the first to fail."""
LOOPBACK = "lo"
_DONE = "done"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the ranks of this node execute, and with whom."""

    argv: tuple[str, ...]
    """The module of a rank and its arguments."""
    num_ranks: int
    """On all nodes."""
    here: int
    """On this node."""
    first: int = 0
    """The first of them."""
    others: tuple[Endpoint, Run] | None = None
    """Where several nodes meet, and which of them this is."""
    timeout_s: float = 0.0
    """How long to wait for the other nodes."""
    nvme_path: Path | None = None
    """Where moments of the optimizer are kept."""
    devices: tuple[int, ...] = ()
    """Numbers of the GPUs of this node that the ranks use, where they are not the first ones."""
    env: dict[str, str] = field(default_factory=dict)
    """Variables of the ranks, where the environment does not have them."""
    met: Callable[[Meeting | None], bool] | None = None
    """Called when all nodes are there; whether the ranks start."""
    is_done: Callable[[Meeting | None], bool] | None = None
    """Asked every 50 ms; whether the ranks have done what they are for, so that those that are left are ended."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the ranks of this node ended."""

    code: int
    """The exit code: that of the first rank that failed, 128 + n for signal n."""
    out_of_memory: bool = False
    """Whether a rank ran out of device memory."""
    interrupted_by: int | None = None
    """The signal that asked to end."""
    asked_to_end: bool = False
    """Whether a signal came, after which ranks may have saved and ended by themselves."""
    died: bool = False
    """Whether a rank, here or elsewhere, ended as none should: killed, or by an error that nobody has foreseen."""


def training(plan: Plan, folder: Path, options: RunOptions, begins: Beginning | None = None) -> Work:
    """Running ``plan`` on this node; a copy of it is in ``folder`` with its job, and metrics and logs go there.

    Raises:
        PlanError: the plan needs several nodes and ``options`` does not say where they meet, or in no form known.
    """
    begins = begins or Beginning(resume=options.resume, init_from=options.init_from)
    return Work(
        argv=("runtime.train.worker", str(folder), encode(begins)),
        num_ranks=plan.layout.num_devices,
        here=devices_of_node(plan, options.node_rank),
        first=options.node_rank * plan.problem.devices_per_node,
        others=other_nodes(plan, options),
        timeout_s=options.rendezvous_timeout,
        nvme_path=_nvme_path(plan, options),
    )


def verifying(plan: Plan, plan_path: Path, result: Path, options: VerifyOptions) -> Work:
    """Comparing ``plan`` with one process on this machine, and writing ``result``."""
    count = plan.layout.num_devices
    argv = ("runtime.verify.worker", str(plan_path), str(result), encode(options))
    return Work(argv=argv, num_ranks=count, here=count, nvme_path=_nvme_path(plan, options))


def sampling(checkpoint: Path, options: SampleOptions) -> Work:
    """Writing some text with the weights of a checkpoint, in one process."""
    return Work(argv=("runtime.checkpoints.sample", str(checkpoint), encode(options)), num_ranks=1, here=1)


def calibrating(result: Path, devices: int, work: CalibrationWork) -> Work:
    """Measuring this node with one process per device, and leaving JSON in ``result``."""
    argv = ("runtime.calibrate.worker", str(result), encode(work))
    return Work(argv=argv, num_ranks=devices, here=devices)


def _nvme_path(plan: Plan, options: RunOptions | VerifyOptions) -> Path | None:
    return options.nvme_path if plan.layout.offload.tier == "nvme" else None


def other_nodes(plan: Plan, options: RunOptions) -> tuple[Endpoint, Run] | None:
    """Where the nodes of ``plan`` meet, and which of them this is; ``None`` where one is enough.

    Raises:
        PlanError: ``options`` does not say where, or in no form known.
    """
    devices = ""
    if plan.problem.num_nodes > 1 and plan.problem.hardware.device == "cuda":
        devices = ", ".join(sorted(set(present_gpus())))
    return meeting_of(plan.problem.num_nodes, plan.digest, options, devices)


def execute(work: Work, *, stdout: int | None = None, wants_save: Callable[[], bool] = lambda: False) -> Outcome:
    """Start the ranks of this node, wait until they have ended, and say what went wrong.

    A signal that asks this process to end ends them first, and so does the end of another node.

    Args:
        work: what they execute.
        stdout: the descriptor that they print to, if not that of this process.
        wants_save: asked now and then; once it says so, the ranks are to save and to end.

    Raises:
        PlanError: the other nodes did not come.
    """
    try:
        with interruptible(), ExitStack() as stack:
            return _executed(work, _Shared(stack), stdout, wants_save)
    except Interrupted as interrupted:
        return Outcome(code=128 + interrupted.number, interrupted_by=interrupted.number)


class _Shared:
    """Files that the ranks of this node and their launcher share: they have no name, and end with the last of them."""

    def __init__(self, stack: ExitStack) -> None:
        """Empty ones, which ``stack`` closes."""
        self.store, self.failure, self.out_of_memory = self.descriptors = [
            os.memfd_create(f"gptplan-{name}") for name in ("store", "failure", "out-of-memory")
        ]
        for descriptor in self.descriptors:
            stack.callback(os.close, descriptor)

    def said(self) -> str:
        """The exit code of the first rank that failed and what it has to say; empty if it could not."""
        return Path(own_file(self.failure)).read_text(encoding="utf-8")


def own_file(descriptor: int) -> str:
    """The path by which a process opens a file that it has open, once more."""
    return f"/proc/self/fd/{descriptor}"


def _executed(work: Work, shared: _Shared, stdout: int | None, wants_save: Callable[[], bool]) -> Outcome:
    meeting = None
    if work.others is not None:
        meeting = meet(*work.others, timeout_s=work.timeout_s, say=say)
    if work.met is not None and not work.met(meeting):
        if meeting is not None:
            meeting.leave()
        return Outcome(code=ExitCode.OK)
    commands = [_command(work, rank, shared, meeting) for rank in range(work.here)]
    with kept_stderr() if meeting is not None else nullcontext() as stderr:
        why_end = partial(_why_end, work, meeting)
        ended = run_ranks(commands, stdout=stdout, stderr=stderr, why_end=why_end, wants_save=wants_save)
    if (ended.signal is not None or any(ended.codes)) and sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar that was killed leaves the cursor hidden
    code, text = _cause(ended, shared.said(), meeting, work.first)
    elsewhere = 0 if meeting is None or meeting.failure is None else meeting.failure.signal
    if meeting is not None:
        failure = _failure(meeting.node, ended, code, text, last_lines(text, stderr))
        meeting.leave(None if code in (ExitCode.OK, *TOGETHER) else failure)
    if text:
        say(text.rstrip())
    out_of_memory = os.fstat(shared.out_of_memory).st_size > 0
    by = ended.signal or elsewhere or None
    died = ended.killed is not None or bool(ended.reason) or code == ExitCode.BUG
    return Outcome(
        code=code,
        out_of_memory=out_of_memory,
        interrupted_by=by,
        asked_to_end=ended.asked or by is not None,
        died=died and not out_of_memory and by is None and ended.reason != _DONE,
    )


def _failure(node: int, ended: Ended, code: int, text: str, log: Sequence[str]) -> Message:
    """What the other nodes are told of the end of this one."""
    if ended.signal is not None:
        return Message(failed=f"node {node} was ended by {signal.Signals(ended.signal).name}", signal=ended.signal)
    why = _first_line(text)[: MOST_LINE_BYTES // 8]
    return Message(failed=f"node {node} ended with exit code {code}: {why}", code=code, log=tuple(log))


def _why_end(work: Work, meeting: Meeting | None) -> str:
    reason = meeting.tick() if meeting is not None else ""
    return reason or (_DONE if work.is_done is not None and work.is_done(meeting) else "")


def say_interrupted(outcome: Outcome, what: str) -> None:
    """Say which signal has ended the processes, where one did, and ``what`` is left or lost."""
    if outcome.interrupted_by is not None:
        say(f"ended by {signal.Signals(outcome.interrupted_by).name}: every process has ended, and {what}")


def _command(work: Work, rank: int, shared: _Shared, meeting: Meeting | None) -> Command:
    """The process of local rank ``rank``."""
    env = {
        "RANK": str(work.first + rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(work.num_ranks),
        "LOCAL_WORLD_SIZE": str(work.here),
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": _python_path(),
        FAILURE_FILE: own_file(shared.failure),
        OUT_OF_MEMORY_FILE: own_file(shared.out_of_memory),
        STORE: f"file:{own_file(shared.store)}" if meeting is None else f"tcp:{meeting.store}",
    }
    interface = LOOPBACK if meeting is None else interface_of(meeting.address)
    defaults = {
        # PyTorch's own warnings about how it maps ranks to devices, which here is one to one.
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        # Blocks of the caching allocator grow in place, so that it reserves hardly more than what is in use.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // work.here)),
        # Ranks listen where they meet and nowhere else.
        **({"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface} if interface else {}),
        **work.env,
    }
    env |= {name: value for name, value in defaults.items() if name not in os.environ}
    if work.devices:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, work.devices))
    if work.nvme_path is not None:
        env[NVME_FOLDER] = str(work.nvme_path.resolve())
    keep = list(shared.descriptors)
    if meeting is not None and meeting.listener is not None and rank == 0:
        keep.append(meeting.listener.fileno())
        env[LISTENER] = str(keep[-1])
    return Command(argv=(sys.executable, "-m", *work.argv), env=env, keep_fds=tuple(keep))


def _python_path() -> str:
    # With PYTHONSAFEPATH a worker does not import from the current folder, where a user's own
    # `runtime` could shadow ours; in a checkout ours has to be named then.
    inherited = os.environ.get("PYTHONPATH", "")
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return inherited
    return os.pathsep.join(filter(None, (str(root), inherited)))


def _cause(ended: Ended, said: str, meeting: Meeting | None = None, first_rank: int = 0) -> tuple[int, str]:
    """Exit code and message: of what failed first, as far as anybody can tell; ``said`` is what the ranks know."""
    if ended.signal is not None:
        return 128 + ended.signal, ""
    failures = [(rank, code) for rank, code in enumerate(ended.codes) if code]
    if ended.reason:
        return (ExitCode.OK, "") if ended.reason == _DONE else _lost(ended.reason, meeting)
    if all(code in TOGETHER for _, code in failures):
        return (failures[0][1] if failures else ExitCode.OK), ""
    # A killed rank says nothing itself, and its peers only that they lost it. NCCL ends those by SIGABRT, so that
    # what a rank said comes before that.
    killed = ended.killed
    code, _, text = said.partition("\n")
    if killed is not None and not (text and killed[1] == signal.SIGABRT):
        return 128 + killed[1], _killed_message(first_rank + killed[0], killed[1])
    if meeting is not None and (reason := meeting.late_reason(CAUSE_WAIT_S)):
        return _lost(reason, meeting)
    return (int(code), text) if text else (failures[0][1], "")


def _lost(reason: str, meeting: Meeting | None) -> tuple[int, str]:
    failure = None if meeting is None else meeting.failure
    if failure is not None and failure.signal:
        return 128 + failure.signal, f"{reason}, and so this one ended"
    log = "" if failure is None or not failure.log else "\n".join(["the last lines of its log:", *failure.log])
    hint = "see what that node printed; start all nodes again"
    return ExitCode.NEGATIVE, render(Diagnostic(rule="RUN014", message=reason, detail=log, hint=hint))


def _killed_message(rank: int, number: int) -> str:
    name = signal.Signals(number).name
    hint = "SIGKILL often means that the host ran out of memory" if number == signal.SIGKILL else ""
    message = f"rank {rank} was killed by {name}"
    return render(Diagnostic(rule="RUN008", message=message, hint=hint))


def _first_line(text: str) -> str:
    return re.sub(r"^error\[\w+\]: ", "", text.partition("\n")[0]) or "it was asked to"
