"""Disk bandwidth: writing a file until it is on the drive, and reading it back past the page cache."""

import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

CHUNK_BYTES = 16 * 1024**2
LEAST_CHUNKS = 2
MOST_CHUNKS = 256
FLUSHED_CHUNKS = 8
"""Chunks between which the drive is waited for, so that a slow one has little left to write when time is up."""
FREE_SHARE = 0.5
"""No more than this share of what is free is written."""


class DiskRates(NamedTuple):
    """One-way rates of one process."""

    read_bytes_per_s: float
    write_bytes_per_s: float


def measure_disk(folder: Path, free_bytes: int, budget_s: float) -> DiskRates:
    """Write and read a file in ``folder`` for about ``budget_s``; it is removed. Raises ``OSError``."""
    chunk = os.urandom(CHUNK_BYTES)  # a drive that compresses would gain from zeros
    most = max(LEAST_CHUNKS, min(MOST_CHUNKS, int(free_bytes * FREE_SHARE) // CHUNK_BYTES))
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".gptplan-disk-", buffering=0) as file:
        began, written = time.perf_counter(), 0
        while written < most and (written < LEAST_CHUNKS or time.perf_counter() - began < budget_s / 3):
            file.write(chunk)
            written += 1
            if written % FLUSHED_CHUNKS == 0:
                os.fsync(file.fileno())
        os.fsync(file.fileno())
        write_s = time.perf_counter() - began
        _forget(file.fileno())
        file.seek(0)
        began, read = time.perf_counter(), 0
        target = bytearray(CHUNK_BYTES)
        while (count := file.readinto(target)) and time.perf_counter() - began < budget_s / 3:
            read += count
        read_s = time.perf_counter() - began
    return DiskRates(max(read, CHUNK_BYTES) / read_s, written * CHUNK_BYTES / write_s)


def _forget(descriptor: int) -> None:
    """Drop the file from the page cache, where the system can."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
