"""The one way in which gptplan writes: messages, answers in words, and files that somebody named.

A file is complete or absent: it is written beside its place, flushed to the drive and renamed. A link is followed and
stays. What was there before is replaced only if the same command wrote it, or by force. What is no file is refused,
but for the devices that take bytes and keep none, and for the standard streams.
"""

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from planner.diagnostics import PlanError, escaped, usage_error

STDOUT = Path("-")
"""The path that stands for standard output."""
MOST_LOOKED_AT_BYTES = 2**26
"""How much of an existing file is read to tell who wrote it."""
_TAKES_BYTES = frozenset({(1, 3), (1, 5), (1, 7)})
"""Linux's numbers of /dev/null, /dev/zero and /dev/full (Documentation/admin-guide/devices.txt)."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a device",
}

Ours = Callable[[bytes], bool]
"""Whether the content of a file was written by the command that is about to write it again."""


def nobodys(content: bytes) -> bool:
    """For output that nothing marks as gptplan's: every file that exists is somebody else's."""
    return False


def tabled(columns: Sequence[str]) -> Ours:
    """For a table in CSV: it is that of the same command if its first line ends with ``columns``."""
    end = ",".join(columns).encode()
    return lambda content: content.partition(b"\n")[0].rstrip(b"\r").endswith(end)


def say(text: str) -> None:
    """A message on stderr, which ends a line."""
    sys.stderr.write(f"{escaped(text)}\n")
    sys.stderr.flush()


def tell(text: str) -> None:
    """A part of the answer on stdout, which ends a line."""
    sys.stdout.write(f"{escaped(text)}\n")


def write_output(
    content: bytes, path: Path, *, what: str, ours: Ours = nobodys, force: bool = False, option: str = "-o"
) -> None:
    """Write ``content`` to ``path``, or to standard output for ``-``.

    Args:
        content: all that the file holds.
        path: where to.
        what: what it is, for messages: ``plan``, ``report``.
        ours: tells from the content of an existing file whether the same command wrote it.
        force: replace a file whoever wrote it; never what is no file.
        option: how the user named the path, for messages.

    Raises:
        PlanError: with exit code 2; there is something else, or it cannot be written. Nothing has changed then.
    """
    with _told(path, what, option):
        stream = _stream(path)
        if stream is None:
            _write_file(content, path, what=what, ours=ours, force=force, option=option)
        else:
            with stream:
                stream.write(content)


def check_output(path: Path, *, what: str, ours: Ours = nobodys, force: bool = False, option: str = "-o") -> None:
    """Refuse a place that :func:`write_output` would refuse, before there is anything to write.

    Whether the operating system lets it write shows then.

    Raises:
        PlanError: there is something else.
    """
    with contextlib.suppress(OSError), _stream(path) or contextlib.nullcontext() as stream:
        if stream is None:
            _check(path, what=what, ours=ours, force=force, option=option)


@contextlib.contextmanager
def _told(path: Path, what: str, option: str) -> Iterator[None]:
    """Say what the operating system refuses, but for a reader who has left, which is no error of the writer."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        hint = f"name another file with `{option}`"
        raise usage_error(f"cannot write the {what}: {error.strerror}", location=str(path), hint=hint) from error


def _stream(path: Path) -> BinaryIO | None:
    """Where bytes go through: standard output and error by any name, and devices that keep nothing."""
    sys.stdout.flush()  # what is printed before comes before
    if path == STDOUT:
        return os.fdopen(os.dup(1), "wb")
    try:
        there = path.stat()
    except OSError:
        return None
    if stat.S_ISCHR(there.st_mode) and (os.major(there.st_rdev), os.minor(there.st_rdev)) in _TAKES_BYTES:
        return path.open("wb")
    for number in (1, 2):
        with contextlib.suppress(OSError):  # closed
            if os.path.samestat(there, os.fstat(number)):
                return os.fdopen(os.dup(number), "wb")
    return None


def _check(path: Path, *, what: str, ours: Ours, force: bool, option: str) -> Path:
    """Where the file is behind links, which may be written."""
    target = Path(os.path.realpath(path))
    try:
        there = target.stat()
    except FileNotFoundError:
        return target
    if not stat.S_ISREG(there.st_mode):
        kind = _KINDS.get(stat.S_IFMT(there.st_mode), "no file")
        raise usage_error(
            f"the {what} cannot be written there: this is {kind}",
            location=str(path),
            hint=f"name a file with `{option}`",
        )
    if not force and not (there.st_size == 0 or _is_ours(target, ours)):
        raise _foreign(what, path, option)
    return target


def _is_ours(path: Path, ours: Ours) -> bool:
    with path.open("rb") as file:
        return ours(file.read(MOST_LOOKED_AT_BYTES))


def _foreign(what: str, path: Path, option: str) -> PlanError:
    return usage_error(
        f"there is a file already, which the command that writes this {what} did not write",
        location=str(path),
        hint=f"name another file with `{option}`, or add `--force` to replace this one",
    )


def _write_file(content: bytes, path: Path, *, what: str, ours: Ours, force: bool, option: str) -> None:
    target = _check(path, what=what, ours=ours, force=force, option=option)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:100]}.")
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), _mode(target))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """The permissions of the file that is replaced, or those that the umask leaves a new one."""
    with contextlib.suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    umask = os.umask(0o077)  # there is no other way to ask
    os.umask(umask)
    return 0o666 & ~umask
