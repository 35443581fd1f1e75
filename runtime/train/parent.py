"""Processes that do not outlive the one that started them."""

import contextlib
import ctypes
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have Linux end this process when its parent has ended, even if that was killed; elsewhere nothing changes.

    A launcher that is killed cannot stop its workers, which would hold the devices for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
