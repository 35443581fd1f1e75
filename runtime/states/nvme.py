"""Moments of the optimizer in a file on an NVMe drive, through tensornvme with its silent losses closed."""

import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist
from tensornvme import DiskOffloader

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.work import MOMENT_BYTES
from planner.specs.units import format_bytes

RULE = "RUN005"

QUEUE_DEPTH = 8
LARGEST_TRANSFER_BYTES = 2**31 - 4096
"""Linux moves no more in one read or write, and tensornvme asks once for a whole tensor."""

_IO_URING_SETUP = 425
_IO_URING_PARAMS_BYTES = 120


class MomentFile(DiskOffloader):  # type: ignore[misc]
    """One rank's file of moments, with room of its own.

    tensornvme 0.1.0 does not look at the outcome of a write, so one that fails for want of room
    loses moments without a word; here the room is taken before. Its `sync_read_events` waits for
    writes (csrc/offload.cpp), so that an update could begin before its moments are read; here it
    waits for everything.
    """

    def __init__(self, folder: Path) -> None:
        """Start an empty file in a new folder in ``folder``, and take both out of it at once.

        The file lives as long as this process has it open, and no longer, however the process ends.
        """
        own = Path(tempfile.mkdtemp(prefix="gptplan-", dir=folder))
        super().__init__(str(own), QUEUE_DEPTH, backend="uring" if _uring_is_allowed() else "aio")
        (file,) = own.iterdir()
        self._folder, self.descriptor = folder, os.open(file, os.O_RDWR | os.O_CLOEXEC)
        file.unlink()
        own.rmdir()
        self._slack_bytes = self._reserved_bytes = 0

    def reserve(self, sizes: list[int]) -> None:
        """Take the room for the moments of parameters of ``sizes`` elements.

        Slots of different size are used anew in every step, which leaves holes: there is room for
        twice the largest beyond what is needed, and :meth:`synchronize` keeps it so.

        Raises:
            PlanError: the drive has no such room, or a parameter is too large for one transfer.
        """
        largest = MOMENT_BYTES * max(sizes, default=0)
        if largest // 2 > LARGEST_TRANSFER_BYTES:
            limit = format_bytes(LARGEST_TRANSFER_BYTES)
            raise _refusal(
                f"the moments of one parameter take {format_bytes(largest // 2)} each, and {limit} fit one transfer",
                self._folder,
                "offload to `cpu`, or use a layout that divides the parameters further",
            )
        self._slack_bytes = 2 * largest
        self._take(MOMENT_BYTES * sum(sizes) + self._slack_bytes)

    def sync_read_events(self) -> None:
        """Wait until what was asked for is read."""
        super().synchronize()

    def synchronize(self) -> None:
        """Wait for all reads and writes of a step.

        Raises:
            PlanError: the file grew, and the drive has no more room.
        """
        super().synchronize()
        size = os.fstat(self.descriptor).st_size
        if size > self._reserved_bytes:
            self._take(size + self._slack_bytes)

    def _take(self, num_bytes: int) -> None:
        try:
            os.posix_fallocate(self.descriptor, 0, num_bytes)
        except OSError as error:
            message = f"rank {dist.get_rank()} cannot reserve {format_bytes(num_bytes)} for moments: {error.strerror}"
            hint = "make room, or name a folder on a larger drive with `--nvme-path FOLDER`"
            raise _refusal(message, self._folder, hint) from error
        self._reserved_bytes = num_bytes


def keep_moments_in(folder: Path, adam: Any) -> None:
    """Have ``adam``, one of Colossal-AI's, keep its moments in a file of this rank on the drive of ``folder``."""
    adam.nvme_offload_fraction = 1.0
    adam.offloader = MomentFile(folder)


def reserve_moments(optimizer: Any) -> None:
    """Take the room for the moments of a boosted optimizer.

    Raises:
        PlanError: the drive has no such room.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.is_cpu]
    # Those of Gemini have no storage between steps, but a range of a chunk.
    ranges = getattr(optimizer, "param_to_range", None)
    sizes = [p.numel() if ranges is None else ranges[p][1] - ranges[p][0] for p in parameters]
    optimizer.optim.offloader.reserve(sizes)


def _uring_is_allowed() -> bool:
    """Whether the kernel gives this process a ring; many containers forbid it, and tensornvme does not look."""
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(_IO_URING_SETUP, 1, ctypes.create_string_buffer(_IO_URING_PARAMS_BYTES))
    if ring < 0:
        return False
    os.close(ring)
    return True


def _refusal(message: str, location: Path, hint: str) -> PlanError:
    found = Diagnostic(rule=RULE, message=message, location=str(location), hint=hint)
    return PlanError(found, exit_code=ExitCode.NEGATIVE)
