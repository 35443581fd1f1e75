"""Ctrl-C: outside of a command it ends the process at once with one line, inside it raises."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


def end_at_once(number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """End: what is half imported can neither be used nor taken down in order."""
    os.write(2, b"interrupted\n")
    os._exit(130)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C raise ``KeyboardInterrupt`` here, where it would end the process at once."""
    ends = signal.getsignal(signal.SIGINT) is end_at_once
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, end_at_once)
