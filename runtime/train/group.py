"""The process group of a run: how its ranks meet."""

import os
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import FileStore, Store, TCPStore  # type: ignore[attr-defined]  # in no list of its names

from planner.handover.work import LISTENER, STORE
from runtime.patches.pickles import refuse_pickles

MEETING_TIMEOUT = timedelta(minutes=5)
"""How long a rank may take to come; the launcher ends all ranks before that if one has failed."""


def meeting_store() -> Store | None:
    """Where the launcher says that the ranks meet; ``None`` where only PyTorch's own variables say so.

    On one node they meet in a file without a name, so that nobody listens. On several they meet at a port of
    rank 0, whose socket the launcher has bound to one address. What is exchanged there is bytes and is not unpickled.
    """
    kind, _, place = os.environ.get(STORE, "").partition(":")
    if not kind:
        return None
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return FileStore(place, count) if kind == "file" else _at_port(place, rank, count)


def join_group(backend: str, store: Store | None = None, **settings: Any) -> None:
    """Join the other ranks in ``store``, or where the launcher or PyTorch's own variables say.

    ``settings`` are those of PyTorch.
    """
    refuse_pickles()
    store = store or meeting_store()
    if store is None:
        dist.init_process_group(backend, **settings)
        return
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, **settings)


def _at_port(place: str, rank: int, count: int) -> TCPStore:
    host, _, port = place.rpartition(":")
    listener = int(os.environ[LISTENER]) if rank == 0 else None
    return TCPStore(
        host.strip("[]"),
        int(port),
        count,
        is_master=rank == 0,
        timeout=MEETING_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener,
    )
