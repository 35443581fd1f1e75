"""What the ranks of a node write to stderr: passed on as it comes, and its end kept for the other nodes."""

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

KEPT_BYTES = 8192
MOST_LINES = 10
"""Lines of a log that are told to the other nodes."""
MOST_COLUMNS = 400
_PIPE_BYTES = 2**20
"""Room for what is written between two looks, each 50 ms."""
_LOG = re.compile(r"^  --> (.+)$", re.MULTILINE)


class Stderr:
    """A pipe to which the ranks write, from which the launcher reads."""

    def __init__(self, read_end: int, write_end: int) -> None:
        """Its two ends, which somebody else closes."""
        self._read_end, self.write_end = read_end, write_end
        self._kept = b""

    def pass_on(self) -> None:
        """Write to this process's stderr what has come."""
        while data := self._read():
            self._kept = (self._kept + data)[-KEPT_BYTES:]
            while data:
                try:
                    data = data[os.write(2, data) :]
                except OSError:  # nobody reads
                    break

    def _read(self) -> bytes:
        with suppress(OSError):
            return os.read(self._read_end, _PIPE_BYTES)
        return b""

    def last_lines(self) -> list[str]:
        """The end of what has come."""
        return _lines(self._kept)


@contextmanager
def kept_stderr() -> Iterator[Stderr | None]:
    """A pipe for the stderr of ranks; ``None`` on a terminal, where bars are drawn that are not for a pipe."""
    if sys.stderr.isatty():
        yield None
        return
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with suppress(OSError):  # more than an ordinary user may have
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    kept = Stderr(read_end, write_end)
    try:
        yield kept
    finally:
        kept.pass_on()
        os.close(read_end)
        os.close(write_end)


def last_lines(said: str, stderr: Stderr | None) -> list[str]:
    """The end of the log that a message names, where it is one of this node's, else that of stderr."""
    match = _LOG.search(said)
    if match is not None:
        with suppress(OSError):
            return _lines(Path(match[1]).read_bytes()[-KEPT_BYTES:])
    return stderr.last_lines() if stderr is not None else []


def _lines(data: bytes) -> list[str]:
    lines = [line[:MOST_COLUMNS] for line in data.decode(errors="replace").splitlines() if line.strip()]
    return lines[-MOST_LINES:]
