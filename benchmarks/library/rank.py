"""One rank of a library run: imports the libraries, then waits on stdin for the case that it trains."""

import os
import sys
import traceback
from pathlib import Path

import colossalai
import msgspec
import torch
import torch.distributed as dist

from benchmarks.library.cases import LibraryCase
from benchmarks.library.training import train
from runtime.patches.host_accelerator import adapt
from runtime.patches.quiet import quieten_libraries
from runtime.train.worker import leave


class Task(msgspec.Struct, frozen=True):
    """What a rank is told: the case, its place among the ranks, and where rank 0 writes what it measured."""

    case: LibraryCase
    rank: int
    port: int
    device: str
    found: str


def main() -> int:
    """Train the case that stdin names; 0 also where none comes."""
    quieten_libraries()
    line = sys.stdin.readline()
    if not line:
        return 0
    task = msgspec.json.decode(line, type=Task)
    os.environ |= {
        "RANK": str(task.rank),
        "LOCAL_RANK": str(task.rank),
        "WORLD_SIZE": str(task.case.devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(task.port),
    }
    found = Path(task.found)
    try:
        measured = train(task.case, _join(task))
        if task.rank == 0:
            found.write_bytes(msgspec.json.encode({"outcome": "fit", **measured}))
        dist.barrier()
    except torch.OutOfMemoryError:
        found.write_bytes(msgspec.json.encode({"outcome": "oom"}))
        return 1
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def _join(task: Task) -> torch.device:
    if task.device == "cuda":
        colossalai.launch_from_torch(verbose=False)
        return torch.device("cuda", task.rank)
    adapt("cpu")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    return torch.device("cpu")


if __name__ == "__main__":
    leave(main())
