"""The one way in which gptplan reads a whole file that somebody named: an ordinary one, and of a size to be read."""

import os
import stat
from pathlib import Path

from planner.diagnostics import usage_error


def read_input(path: Path, *, what: str, most_bytes: int, shown: str = "", hint: str = "") -> bytes:
    """All bytes of a file; a named pipe or a device is refused, without waiting for it.

    Raises:
        PlanError: it cannot be read, is no ordinary file, or is larger than ``most_bytes``.
    """
    shown = shown or str(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:  # which refuses a folder
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise usage_error(f"the {what} is no ordinary file", location=shown, hint=hint)
            content = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise usage_error(f"cannot read the {what}: {reason}", location=shown, hint=hint) from error
    if len(content) > most_bytes:
        raise usage_error(f"the {what} file is larger than {most_bytes >> 20} MiB", location=shown, hint=hint)
    return content


def is_folder(path: Path) -> bool:
    """Whether a folder is there; a name that no file can have is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
