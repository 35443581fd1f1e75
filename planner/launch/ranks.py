"""The processes of one node: started together, watched, and ended together.

Nothing that is started here outlives what started it. A rank leads a process group of its own, which is killed as a
whole, and Linux kills the rank when its launcher ends, however that ended (prctl(2), ``PR_SET_PDEATHSIG``).
"""

import ctypes
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NoReturn

from planner.diagnostics import ExitCode
from planner.launch.logs import Stderr

STOP_TIMEOUT_S = 20.0
"""How long ranks may take to end after SIGTERM before they are killed."""
FAILED_TIMEOUT_S = 5.0
"""The same after one of them failed: its peers wait in vain for it."""
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
SAVING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""Those of a batch system that is about to end a run: ranks that can save are asked to, and end themselves."""


TOGETHER = (ExitCode.SAVED, ExitCode.REWIND)
"""Exit codes on which the ranks of all nodes have agreed: no other rank has to be ended because of them."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start: its arguments and what it needs in its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """Variables to set beside those of this process."""
    keep_fds: tuple[int, ...] = ()
    """Descriptors that it inherits."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the ranks of a node ended."""

    codes: tuple[int | None, ...]
    """Exit code by local rank as :mod:`subprocess` has it, negative for a signal; ``None``: ended by the launcher."""
    signal: int | None = None
    """The signal that asked the launcher to end."""
    reason: str = ""
    """Why the launcher ended them, where nothing here failed."""
    asked: bool = False
    """Whether any signal asked the launcher to end, whatever the ranks made of it."""

    @property
    def killed(self) -> tuple[int, int] | None:
        """Local rank and signal of a rank that somebody killed; what a rank did to itself (SIGABRT) comes last."""
        found = [(rank, -code) for rank, code in enumerate(self.codes) if code is not None and code < 0]
        return min(found, key=lambda one: one[1] == signal.SIGABRT, default=None)


def run_ranks(
    commands: Sequence[Command],
    *,
    stdout: int | None = None,
    stderr: Stderr | None = None,
    why_end: Callable[[], str] = str,
    wants_save: Callable[[], bool] = lambda: False,
) -> Ended:
    """Start a process for each command and wait until all have ended; the first failure ends the others.

    Args:
        commands: one for each local rank.
        stdout: the descriptor that they print to, if not that of this process.
        stderr: where they write messages, if not to the stderr of this process.
        why_end: asked every 50 ms; a text ends the ranks, as when another node has failed.
        wants_save: asked as often; once it says so, ranks that can are asked to save and to end.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    with _received_signals() as received:
        try:
            ranks += [_start(command, stdout, stderr) for command in commands]
            reason = _wait(ranks, received, partial(_look, stderr, why_end), wants_save)
            codes = tuple(_code(rank) for rank in ranks)
        finally:
            _end(ranks, received)
    was_ended = None in codes and not any(codes)
    by = received[0] if received and was_ended else None
    return Ended(codes=codes, signal=by, reason=reason, asked=bool(received))


def _look(stderr: Stderr | None, why_end: Callable[[], str]) -> str:
    if stderr is not None:
        stderr.pass_on()
    return why_end()


def _start(command: Command, stdout: int | None, stderr: Stderr | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command.argv,
        env=os.environ | command.env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=None if stderr is None else stderr.write_end,
        pass_fds=command.keep_fds,
        start_new_session=True,  # a Ctrl-C reaches the launcher alone, which ends the ranks
        preexec_fn=_dies_with(os.getpid()),  # noqa: PLW1509 - a launcher has one thread
    )


def _dies_with(launcher: int) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def ask_linux() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != launcher:  # which has ended since the fork
            os._exit(1)

    return ask_linux


def _code(rank: "subprocess.Popen[bytes]") -> int | None:
    """The exit code of a rank that has ended, negative for a signal; it stays to be waited for."""
    # A rank that is not waited for keeps its number, so that its group can still be killed by it.
    found = os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if found is None:
        return None
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


def _wait(
    ranks: Sequence["subprocess.Popen[bytes]"],
    received: Sequence[int],
    why_end: Callable[[], str],
    wants_save: Callable[[], bool],
) -> str:
    """Wait until all ranks have ended well, or until one has failed or they are to end; why, if that is not seen."""
    asked, saves, deadline = 0, False, math.inf
    while True:
        codes = [*map(_code, ranks)]
        if any(codes):
            deadline = min(deadline, time.monotonic() + STOP_TIMEOUT_S)
        if _is_over(codes) or time.monotonic() > deadline:
            return ""
        if reason := why_end():
            return reason
        if len(received) > asked:
            if not _ask_to_save([rank for rank in ranks if _code(rank) is None], received[asked:], first=not asked):
                return ""
            asked = len(received)
        if not saves and not asked and wants_save():
            saves = _ask_to_save([rank for rank in ranks if _code(rank) is None], [signal.SIGUSR1], first=True)
        time.sleep(POLL_S)


def _is_over(codes: Sequence[int | None]) -> bool:
    """Whether all ranks have ended, or one has failed, which ends the others; ``None`` stands for one that runs."""
    return None not in codes or not {*codes} <= {None, 0, *TOGETHER}


def _ask_to_save(running: Sequence["subprocess.Popen[bytes]"], signals: Sequence[int], *, first: bool) -> bool:
    """Ask all ranks to save and to end, if the signals mean that and the ranks know how to."""
    if not first or any(number not in SAVING_SIGNALS for number in signals) or not all(map(_can_save, running)):
        return False
    for rank in running:
        os.kill(rank.pid, signal.SIGUSR1)  # Popen.send_signal would wait for one that has just ended
    return True


def _can_save(rank: "subprocess.Popen[bytes]") -> bool:
    """Whether a rank handles the signal by which it is asked to save (proc(5), ``SigCgt``)."""
    try:
        status = Path(f"/proc/{rank.pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGUSR1 - 1) & 1)


def _end(ranks: Sequence["subprocess.Popen[bytes]"], received: Sequence[int]) -> None:
    """End the process groups of all ranks: gently, and by force after a while or at a second signal."""
    running = [rank for rank in ranks if _code(rank) is None]
    deadline = time.monotonic() + (STOP_TIMEOUT_S if received else FAILED_TIMEOUT_S)
    for rank in running:
        os.kill(rank.pid, signal.SIGTERM)
    asked = max(len(received), 1)
    while None in [_code(rank) for rank in running] and time.monotonic() < deadline and len(received) <= asked:
        time.sleep(POLL_S)
    for rank in ranks:
        # With what it started itself.
        with suppress(ProcessLookupError):
            os.killpg(rank.pid, signal.SIGKILL)
        rank.wait()


class Interrupted(BaseException):
    """A signal asked this process to end."""

    def __init__(self, number: int) -> None:
        """The signal ``number``."""
        super().__init__(number)
        self.number = number


@contextmanager
def interruptible() -> Iterator[None]:
    """Have the signals that ask this process to end raise :class:`Interrupted`, so that it leaves nothing behind."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number)

    with _handling(interrupt):
        yield


@contextmanager
def _received_signals() -> Iterator[list[int]]:
    """The signals that ask this process to end, in the order in which they come, instead of its end."""
    received: list[int] = []
    with _handling(lambda number, frame: received.append(number)):
        yield received


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, one in before.items():
            signal.signal(number, one)
