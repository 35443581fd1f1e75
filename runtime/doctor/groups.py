"""Collectives of the groups that a plan makes: those of one axis at the same time, as in training."""

import datetime
import statistics
from functools import partial

import torch
import torch.distributed as dist
from torch.distributed import Store  # type: ignore[attr-defined]  # in no list of its names

from planner.handover.doctor import Axis, DoctorWork, GroupTime, RankGroup
from planner.handover.measurements import CollectiveKind
from runtime.calibrate.collectives import alone_seconds, collective, queued_seconds, slowest
from runtime.calibrate.timing import timed

SIZES = {"cuda": (4 * 1024, 1024**2, 16 * 1024**2, 128 * 1024**2), "cpu": (4 * 1024, 256 * 1024, 4 * 1024**2)}
"""Bytes of a whole tensor: the smallest tells the latency, the largest the bandwidth."""
MOST_REPETITIONS = 20
TELL_S = 60.0
"""How long a rank waits for what the others tell."""


class Told:
    """What the ranks tell each other through the store."""

    def __init__(self, store: Store, rank: int, world: int) -> None:
        """Of rank ``rank`` of ``world``."""
        self._store, self.rank, self._world = store, rank, world

    def all(self, key: str, own: str) -> list[str]:
        """What every rank tells under ``key``, on rank 0; nothing elsewhere."""
        self._store.set(f"{key}/{self.rank}", own)
        if self.rank:
            return []
        keys = [f"{key}/{rank}" for rank in range(self._world)]
        self._store.wait(keys, datetime.timedelta(seconds=TELL_S))
        return [self._store.get(one).decode() for one in keys]


class Groups:
    """The process groups of a plan."""

    def __init__(self, work: DoctorWork, device: torch.device, told: Told) -> None:
        """Those of ``work``; every rank makes them all, in the same order."""
        self._work, self._device, self._told = work, device, told
        self._share_s = work.groups_s / max(1, len({(one.axis, one.turn) for one in work.groups}))

    def measure(self, axis: Axis) -> list[GroupTime]:
        """Time the groups of one axis; every rank has to call it, and rank 0 gets the answer."""
        groups = [one for one in self._work.groups if one.axis == axis]
        found = []
        for turn in sorted({one.turn for one in groups}):
            of_turn = [one for one in groups if one.turn == turn]
            found += self._of_turn(axis, of_turn)
        return found

    def _of_turn(self, axis: Axis, groups: list[RankGroup]) -> list[GroupTime]:
        kind: CollectiveKind = "send" if axis == "pipeline" else "all-reduce"
        mine, found = None, []
        for one in groups:
            group = dist.new_group(list(one.ranks))
            mine = group if self._told.rank in one.ranks else mine
        sizes = SIZES[self._device.type]
        for index, num_bytes in enumerate(sizes):
            seconds = self._seconds(kind, mine, num_bytes)
            found += self._gathered(groups, kind, num_bytes, seconds)
            longest_s = slowest(seconds, self._device)
            # The first message takes the latency of the link, from which nothing follows for larger ones.
            following = sizes[index + 1] / num_bytes if 0 < index < len(sizes) - 1 else 1
            if longest_s * following > self._share_s:
                break  # a link so slow that its larger messages would take all the time
        return found

    def _seconds(self, kind: CollectiveKind, group: "dist.ProcessGroup | None", num_bytes: int) -> float:
        """The median of this rank over as many calls as all ranks agree on."""
        work = collective(kind, group, num_bytes, self._device)
        work()  # opens the connections
        on_device = self._device.type == "cuda"
        sample = queued_seconds(work, self._device) if on_device else partial(alone_seconds, work, self._device)
        once_s = slowest(timed(work, self._device), self._device)
        share_s = self._share_s / len(SIZES[self._device.type])
        count = int(max(2, min(MOST_REPETITIONS, share_s / max(once_s, 1e-6))))
        return statistics.median(sample() for _ in range(count))

    def _gathered(
        self, groups: list[RankGroup], kind: CollectiveKind, num_bytes: int, seconds: float
    ) -> list[GroupTime]:
        first = groups[0]
        key = f"times/{first.axis}/{first.turn}/{num_bytes}"
        told = self._told.all(key, repr(seconds))
        if not told:
            return []
        times = [float(one) for one in told]
        return [
            GroupTime(
                axis=one.axis,
                ranks=one.ranks,
                kind=kind,
                num_bytes=num_bytes,
                seconds=max(times[rank] for rank in one.ranks),
            )
            for one in groups
        ]
