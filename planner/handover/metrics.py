"""The metrics of a run as they are read: a crash may have cut off any line, which is then no record."""

import contextlib
from pathlib import Path
from typing import Any

import msgspec


def read_records(path: Path) -> list[dict[str, Any]]:
    """Every whole record of a metrics file, in its order; of what is no ordinary file, as a device is: none."""
    found: list[dict[str, Any]] = []
    if not path.is_file():
        return found
    with contextlib.suppress(OSError):
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                record = msgspec.json.decode(line)
                if isinstance(record, dict) and "record" in record:
                    found.append(record)
    return found
