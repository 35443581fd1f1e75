"""Ctrl-C during a search: stop it and keep what it has found."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

Result = TypeVar("Result")

STOP_AGAIN_S = 0.05
"""How often an interrupted search is told to stop: it does not listen before it has begun."""


def interruptible(search: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """Run ``search``; in the main thread, Ctrl-C calls ``stop`` until the search returns what it has."""
    if not _takes_interrupts():
        return search()
    with _noting_interrupts() as interrupted:
        return _wait(_start(search), interrupted, stop)


def _takes_interrupts() -> bool:
    """Whether Ctrl-C reaches this thread, and nobody asked to ignore it."""
    if threading.current_thread() is not threading.main_thread():
        return False
    return signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None)


@contextmanager
def _noting_interrupts() -> Iterator[threading.Event]:
    """Set an event at Ctrl-C instead of raising; the previous handler comes back afterwards."""
    interrupted = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.set()

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def _start(work: Callable[[], Result]) -> Future[Result]:
    """Run ``work`` in another thread: handlers of signals run in this one, and only between bytecodes."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="search", daemon=True).start()
    return future


def _wait(future: Future[Result], interrupted: threading.Event, stop: Callable[[], None]) -> Result:
    while not future.done():
        if interrupted.is_set():
            stop()
        try:
            future.exception(timeout=STOP_AGAIN_S)
        except TimeoutError:
            continue
    return future.result()
