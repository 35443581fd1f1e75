"""torchrun with one message at the end instead of a traceback, and the failed worker's exit code.

Takes the arguments of `torchrun`.
"""

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError

from planner.diagnostics import Diagnostic, ExitCode, render
from planner.handover.work import FAILURE_FILE, NVME_FOLDER
from runtime.train.display import show_failure
from runtime.train.parent import end_with_parent

MEETING_ERRORS = (DistNetworkError, DistStoreError, RendezvousError)
"""What torchrun raises where the nodes do not find each other."""


def main(arguments: list[str]) -> int:
    """Run the workers; the exit code of the first that failed, 128 + n for one killed by signal n."""
    logging.disable()  # torchrun repeats at length what is said below
    with tempfile.TemporaryDirectory(prefix="gptplan-") as folder, _nvme_folder():
        failure_file = Path(folder) / "failure.txt"
        os.environ[FAILURE_FILE] = str(failure_file)
        try:
            torchrun.run(torchrun.parse_args(arguments))  # type: ignore[no-untyped-call]
        except ChildFailedError as error:
            return _report(error, failure_file)
        except SignalException as error:
            return 128 + error.sigval
        except MEETING_ERRORS as error:
            show_failure(_meeting_message(arguments, error))
            return ExitCode.NEGATIVE
    return ExitCode.OK


@contextmanager
def _nvme_folder() -> Iterator[None]:
    """Make a folder of this run in the one for moments, and remove it whatever happens to the workers."""
    parent = os.environ.get(NVME_FOLDER)
    if parent is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="gptplan-", dir=parent, ignore_cleanup_errors=True) as folder:
        os.environ[NVME_FOLDER] = folder
        yield


def _report(error: ChildFailedError, failure_file: Path) -> int:
    # SIGTERM is how torchrun ends the others once one has failed.
    failures = list(error.failures.values())
    failures = [failure for failure in failures if failure.exitcode != -signal.SIGTERM] or failures
    # A killed worker says nothing itself, and its peers only that they lost it. NCCL ends those by SIGABRT, so that
    # what a worker said comes before that.
    killed = [failure for failure in failures if failure.exitcode < 0]
    code, _, text = _left_in(failure_file).partition("\n")
    if text and all(failure.exitcode == -signal.SIGABRT for failure in killed):
        show_failure(text)
        return int(code)
    if killed:
        show_failure(_killed_message(killed[0].local_rank, -killed[0].exitcode))
        return 128 - killed[0].exitcode
    return int(failures[0].exitcode)


def _left_in(failure_file: Path) -> str:
    """What the first worker that failed has to say; empty if it could not, as on a full drive."""
    try:
        return failure_file.read_text(encoding="utf-8")
    except OSError:
        return ""


def _meeting_message(arguments: list[str], error: Exception) -> str:
    option = "--rdzv-endpoint="
    place = next((a.removeprefix(option) for a in arguments if a.startswith(option)), "an address of its own")
    reason = str(error).strip().splitlines()[:1]
    if "EADDRINUSE" in str(error):
        message, hint = f"{place} is in use", "name another port with `--rendezvous HOST:PORT`, the same on every node"
    else:
        message = f"the nodes of this run did not meet at {place}"
        hint = "start every node with its own `--node-rank` and the `--rendezvous HOST:PORT` of node 0"
    return render(Diagnostic(rule="RUN010", message=message, detail="".join(reason), hint=hint))


def _killed_message(local_rank: int, number: int) -> str:
    name = signal.Signals(number).name
    hint = "SIGKILL often means that the host ran out of memory" if number == signal.SIGKILL else ""
    message = f"the worker of local rank {local_rank} was killed by {name}"
    return render(Diagnostic(rule="RUN008", message=message, hint=hint))


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(sys.argv[1:]))
