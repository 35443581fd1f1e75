"""One rank of a check; started once per device as ``-m runtime.doctor.worker RESULT WORK``.

The work is :class:`planner.handover.doctor.DoctorWork` as JSON. Ranks tell each other what they found through the store
in which they meet, so that one whose device is stuck holds up no other; what they tell is JSON.
"""

import datetime
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]  # in no list of its names

from planner.diagnostics import Diagnostic, ExitCode, render
from planner.handover.doctor import CPU, DoctorFound, DoctorWork, GroupTime, RankFound
from planner.handover.options import decode
from runtime.calibrate.products import Shape, measure_products
from runtime.doctor.groups import Groups, Told
from runtime.doctor.nccl import choice_of
from runtime.patches.quiet import quieten_libraries
from runtime.train.display import PhaseDisplay
from runtime.train.group import join_group, meeting_store
from runtime.train.worker import fail, leave

LATE = 2
"""How much later than the first a rank may start, in times of its patience: its node may read PyTorch slowly."""
GROUP_TIMEOUT = datetime.timedelta(seconds=30)
"""How long a collective may take; on a healthy network the largest takes seconds."""
GO, STOP = "go", "stop"


class Check:
    """All measurements, in turn."""

    def __init__(self, result: Path, work: DoctorWork) -> None:
        """Measure what ``work`` says; rank 0 leaves it in ``result``, and before that in a file beside it."""
        store = meeting_store()
        if store is None:
            raise RuntimeError("nothing says where the ranks meet")
        self._meeting, self._store = store, PrefixStore("doctor", store)
        self._rank, self._world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._result, self._work, self._found = result, work, DoctorFound()
        kind, axes = work.device, {one.axis for one in work.groups}
        self._device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device("cpu")
        self._display = PhaseDisplay(1 + bool(axes) + len(axes), shown=self._rank == 0)

    def run(self) -> None:
        """Every rank has to call it."""
        with self._display:
            self._note("matrix products")
            self._meet()
            told = msgspec.json.encode(self._own()).decode()
            self._store.set(f"products/{self._rank}", told)
            if self._goes_on():
                self._communicate()
            if self._rank == 0:
                self._write(self._found, done=True)

    def _meet(self) -> None:
        """Wait for the other ranks, so that all measure at once; a rank that does not come is found later."""
        self._store.set(f"here/{self._rank}", "yes")
        deadline = time.monotonic() + LATE * self._work.patience_s
        for rank in range(self._world):
            if not _waited(self._store, f"here/{rank}", deadline):
                return

    def _own(self) -> RankFound:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        shapes = [Shape(*one) for one in self._work.shapes]
        found = measure_products(self._device, self._work.precision, shapes, self._work.products_s)
        is_cuda = self._device.type == "cuda"
        versions = {"torch": str(torch.__version__)}
        if is_cuda:
            versions["CUDA"] = str(torch.version.cuda)
            versions["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        return RankFound(
            rank=self._rank,
            device_name=torch.cuda.get_device_name(self._device) if is_cuda else CPU,
            products=tuple(found),
            versions=versions,
        )

    def _goes_on(self) -> bool:
        """Whether the ranks communicate; rank 0 waits for all and decides, because a stuck one would hold up the rest.

        A rank that rank 0 does not answer goes on to no collective.
        """
        patience_s = self._work.patience_s
        if self._rank:
            deadline = time.monotonic() + (2 + LATE) * patience_s
            return _waited(self._store, "go", deadline) and self._store.get("go").decode() == GO
        deadline, ranks = time.monotonic() + patience_s, []
        for rank in range(self._world):
            if _waited(self._store, f"products/{rank}", deadline):
                ranks.append(msgspec.json.decode(self._store.get(f"products/{rank}"), type=RankFound))
        self._write(msgspec.structs.replace(self._found, ranks=tuple(ranks)))
        goes_on = len(ranks) == self._world
        self._store.set("go", GO if goes_on else STOP)
        return goes_on

    def _communicate(self) -> None:
        if self._world == 1:
            self._write(msgspec.structs.replace(self._found, phase=""))
            return
        backend = "nccl" if self._device.type == "cuda" else "gloo"
        self._note("the first collective")
        join_group(backend, self._meeting, timeout=GROUP_TIMEOUT)
        groups = Groups(self._work, self._device, Told(self._store, self._rank, self._world))
        times: list[GroupTime] = []
        for axis in dict.fromkeys(one.axis for one in self._work.groups):
            self._note(f"{axis} groups")
            times += groups.measure(axis)
            if self._rank == 0:
                self._write(msgspec.structs.replace(self._found, groups=tuple(times)))
        told = Told(self._store, self._rank, self._world).all("network", self._network())
        if self._rank == 0:
            networks = dict(enumerate(told))
            self._write(msgspec.structs.replace(self._found, networks=networks, phase=""))

    def _network(self) -> str:
        if self._device.type == "cpu":
            return f"gloo over {os.environ.get('GLOO_SOCKET_IFNAME', 'any interface')}"
        log = os.environ.get("NCCL_DEBUG_FILE", "").replace("%p", str(os.getpid()))
        return choice_of(Path(log)) if log else ""

    def _note(self, phase: str) -> None:
        self._display.phase(phase)
        if self._rank == 0:
            self._write(msgspec.structs.replace(self._found, phase=phase))

    def _write(self, found: DoctorFound, *, done: bool = False) -> None:
        """Leave what was found so far: whole, whenever the launcher looks."""
        self._found = found
        part = self._result.with_suffix(".new")
        part.write_bytes(msgspec.json.encode(found))
        part.replace(self._result if done else self._result.with_suffix(".part"))


def _waited(store: Store, key: str, deadline: float) -> bool:
    """Wait for a key until the deadline; whether it came."""
    left = max(0.05, deadline - time.monotonic())
    try:
        store.wait([key], datetime.timedelta(seconds=left))
    except RuntimeError:  # which also stands for a timeout
        return False
    return True


def main(arguments: Sequence[str]) -> int:
    """Measure, and write the result as JSON; the exit code says how it ended."""
    result, work = Path(arguments[0]), decode(arguments[1], DoctorWork)
    quieten_libraries()
    try:
        Check(result, work).run()
    except torch.OutOfMemoryError:
        message = "a device has too little free memory to be checked"
        return fail(_refusal(message, "`nvidia-smi` shows what is on it"), ExitCode.NEGATIVE)
    except Exception as error:
        reason = str(error).strip().splitlines()[:1]
        message = f"rank {os.environ['RANK']} failed: {type(error).__name__}: {''.join(reason)}"
        return fail(_refusal(message), ExitCode.NEGATIVE)
    return ExitCode.OK


def _refusal(message: str, hint: str = "") -> str:
    return render(Diagnostic(rule="DOC010", message=message, hint=hint))


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
