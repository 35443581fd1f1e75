"""Work on all cores, in processes that end with the one that started them."""

import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import TypeVar

from planner.data.refusal import unusable

Work = TypeVar("Work")
Result = TypeVar("Result")
_PR_SET_PDEATHSIG = 1


def run_all(
    function: Callable[[Work], Result], tasks: Sequence[Work], workers: int | None
) -> Generator[tuple[Work, Result], None, None]:
    """What ``function`` makes of each task, in the order in which they are done; one a core, or ``workers``.

    Raises:
        PlanError: a process was killed.
        KeyboardInterrupt: Ctrl-C; no process is left.
    """
    count = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    if count <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    # Fresh interpreters: threads of a progress bar do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        try:
            resource_tracker.ensure_running()  # it would let interrupts through when it starts
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the processes never get Ctrl-C
            try:
                waiting = {pool.submit(function, task): task for task in tasks}
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for future in as_completed(waiting):
                yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            hint = "it may have run out of memory: use fewer with `--workers`; the same command goes on from here"
            raise unusable("a process that tokenizes was killed", "tokenize", hint) from error
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(parent: int) -> None:
    """Let Linux end this process with its parent, and keep the tokenizer's own threads away: cores are taken."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
