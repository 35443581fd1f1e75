"""Running the processes that do the work, and ending them when this one is asked to end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

STOP_TIMEOUT_S = 45.0
"""How long the workers may take to stop before they are killed; torchrun itself gives them 30 s."""
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Command:
    """A process to start: its arguments and what it needs in its environment."""

    argv: tuple[str, ...]
    env: dict[str, str]
    """Variables to set beside those of this process."""


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
