"""The processes that do the work: their commands, running them, and ending them when this one is asked to end."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from planner.diagnostics import usage_error
from planner.handover.options import encode
from planner.handover.work import NVME_FOLDER, CalibrationWork, RunOptions, VerifyOptions
from planner.launch.machine import devices_of_node
from planner.plans.plan import Plan

STOP_TIMEOUT_S = 45.0
"""How long the workers may take to stop before they are killed; torchrun itself gives them 30 s."""
INTERRUPTED = 130
NUM_PORTS = 2**16
STANDALONE = ("--standalone",)


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start: its arguments and what it needs in its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """Variables to set beside those of this process."""


def torchrun_command(plan: Plan, plan_path: Path, options: RunOptions) -> Command:
    """The command that runs ``plan``, which is in ``plan_path``, on this node.

    Raises:
        PlanError: the plan needs several nodes and ``options`` does not say where they meet, or in no form known.
    """
    worker = ("runtime.train.worker", str(plan_path), encode(options))
    here = devices_of_node(plan, options.node_rank)
    return _command(here, worker, meeting=_meeting(plan, options), nvme_path=_nvme_path(plan, options))


def verify_command(plan: Plan, plan_path: Path, result: Path, options: VerifyOptions) -> Command:
    """The command that compares ``plan`` with one process on this machine and writes ``result``."""
    worker = ("runtime.verify.worker", str(plan_path), str(result), encode(options))
    return _command(plan.layout.num_devices, worker, nvme_path=_nvme_path(plan, options))


def calibration_command(result: Path, devices: int, work: CalibrationWork) -> Command:
    """The command that measures this node with one process per device and leaves JSON in ``result``."""
    return _command(devices, ("runtime.calibrate.worker", str(result), encode(work)))


def _command(
    here: int, worker: Sequence[str], *, meeting: Sequence[str] = STANDALONE, nvme_path: Path | None = None
) -> Command:
    """Start ``here`` workers on this node, with moments of the optimizer in ``nvme_path``."""
    # The same as `python -m torch.distributed.run`, which users may call themselves.
    argv = (sys.executable, "-m", "runtime.train.elastic", f"--nproc-per-node={here}", *meeting, "-m", *worker)
    env = {"PYTHONSAFEPATH": "1", "PYTHONPATH": _python_path()}
    if nvme_path is not None:
        env[NVME_FOLDER] = str(nvme_path.resolve())
    if "TORCH_CPP_LOG_LEVEL" not in os.environ:
        # PyTorch's own warnings about how it maps ranks to devices, which here is one to one.
        env["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    if "OMP_NUM_THREADS" not in os.environ:
        env["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // here))
    return Command(argv=argv, env=env)


def _nvme_path(plan: Plan, options: RunOptions | VerifyOptions) -> Path | None:
    return options.nvme_path if plan.layout.offload.tier == "nvme" else None


def _python_path() -> str:
    # With PYTHONSAFEPATH a worker does not import from the current folder, where a user's own
    # `runtime` could shadow ours; in a checkout ours has to be named then.
    inherited = os.environ.get("PYTHONPATH", "")
    root = Path(__file__).resolve().parents[2]
    if not (root / "pyproject.toml").is_file():
        return inherited
    return os.pathsep.join(filter(None, (str(root), inherited)))


def _meeting(plan: Plan, options: RunOptions) -> Sequence[str]:
    if plan.problem.num_nodes == 1:
        return STANDALONE
    endpoint = options.rendezvous
    if endpoint is None:
        raise usage_error(
            f"the plan uses {plan.problem.num_nodes} nodes and does not know where they meet",
            location="--rendezvous",
            hint="on every node: `--rendezvous HOST:PORT` of node 0, and `--node-rank` 0, 1, ...",
        )
    host, _, port = endpoint.rpartition(":")
    is_port = port.isascii() and port.isdecimal() and 0 < int(port) < NUM_PORTS
    if not is_port or not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+|\[[0-9a-fA-F:]+\]", host):
        raise usage_error(
            f"`{endpoint}` is no host and port", location="--rendezvous", hint="for example `--rendezvous node0:29500`"
        )
    return f"--nnodes={plan.problem.num_nodes}", f"--node-rank={options.node_rank}", f"--rdzv-endpoint={endpoint}"


def run_command(command: Command, stdout: int | None = None) -> int:
    """Run the workers until they end, their output on the descriptor ``stdout`` if given; their exit code.

    A signal that asks this process to end ends the workers first.
    """
    # In a session of its own: a Ctrl-C then reaches the launcher once, from us, and not every rank.
    process = subprocess.Popen(command.argv, env=os.environ | command.env, start_new_session=True, stdout=stdout)
    with _signals_end(process) as received:
        code = process.wait()
    if received or code:
        _show_cursor()
    if received:
        return INTERRUPTED if received[0] == signal.SIGINT else 128 + received[0]
    return code if code >= 0 else 128 - code


@contextmanager
def _signals_end(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Let a signal stop ``process``, gently first; gives the list of signals that came."""
    received: list[int] = []

    def kill(number: int, frame: FrameType | None) -> None:
        os.killpg(process.pid, signal.SIGKILL)

    def stop(number: int, frame: FrameType | None) -> None:
        if not received:
            signal.signal(signal.SIGALRM, kill)
            signal.setitimer(signal.ITIMER_REAL, STOP_TIMEOUT_S)
            process.terminate()
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield received
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_cursor() -> None:
    # A progress bar that was killed leaves the terminal's cursor hidden.
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")
        sys.stderr.flush()
