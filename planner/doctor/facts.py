"""What a node knows of itself, told to node 0 as JSON; nothing here needs PyTorch."""

import hashlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from planner import __version__
from planner.diagnostics import Diagnostic, PlanError
from planner.launch.links import Meeting, interface_of
from planner.launch.machine import OTHER_STACK, GpuState, check_machine, check_toolchain, gpu_states, missing_packages
from planner.launch.nvme import check_nvme
from planner.plans.plan import Plan

PACKAGES = ("torch", "colossalai", "transformers")
SHARED_MEMORY = Path("/dev/shm")
INTERFACES = Path("/sys/class/net")
UNLIMITED = -1
"""Stands for no limit."""
_MOST_FILES = 10_000
"""Files of a folder that are looked at to tell whether it is the same elsewhere."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a node knows of itself."""

    node: int
    host: str
    """Its own name."""
    host_address: str
    """What that name stands for on the node itself; empty where it knows no such host."""
    versions: dict[str, str]
    """Of Python, of gptplan and of what a run imports; empty for what is not installed."""
    gpus: tuple[GpuState, ...]
    cores: int
    """That this process may use."""
    interface: str
    """The one that has the node's address among the others; empty on one node."""
    mtu: int
    """Of it, in bytes; 0 where it is not known."""
    shared_memory_bytes: int
    """Free in /dev/shm, through which NCCL's processes of one node talk."""
    locked_bytes: int
    """Most memory that a process may lock, as transfers over InfiniBand need; -1: no limit."""
    open_files: int
    """Most files that a process may have open; -1: no limit."""
    data: dict[str, str]
    """Paths of the job and what is there, as a digest of names and sizes; empty for nothing."""
    problems: tuple[Diagnostic, ...]
    """Why this node cannot run the plan."""
    port: int = 0
    """A port that it listens at for a while, to see who reaches it."""
    address: str = ""

    @property
    def devices(self) -> list[str]:
        """Names of the GPUs, each once."""
        return sorted({one.name for one in self.gpus})

    @property
    def driver(self) -> str:
        """Version of the driver; empty without a GPU."""
        return self.gpus[0].driver if self.gpus else ""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What every node is to look at."""

    plan: Plan | None
    location: str
    """The plan as the user named it."""
    paths: tuple[str, ...]
    """Data and tokenizer of the job."""
    nvme_path: Path | None


def facts_of(asked: Asked, node: int, meeting: Meeting | None, listener: socket.socket | None) -> Facts:
    """What this node knows of itself; ``listener`` is where others may try to reach it."""
    address = meeting.address if meeting is not None else ""
    interface = interface_of(address) if address else ""
    shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    return Facts(
        node=node,
        host=socket.gethostname(),
        host_address=_address_of(socket.gethostname()),
        versions=versions(),
        gpus=tuple(gpu_states()),
        cores=len(os.sched_getaffinity(0)),
        interface=interface,
        mtu=_mtu(interface),
        shared_memory_bytes=shared,
        locked_bytes=_limit(resource.RLIMIT_MEMLOCK),
        open_files=_limit(resource.RLIMIT_NOFILE),
        data={path: fingerprint(Path(path)) for path in asked.paths},
        problems=tuple(_problems(asked, node)),
        port=listener.getsockname()[1] if listener is not None else 0,
        address=address,
    )


def versions() -> dict[str, str]:
    """Of Python, of gptplan and of what a run imports; empty for what is not installed."""
    found = {"Python": platform.python_version(), "gptplan": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _address_of(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return ""


def _mtu(interface: str) -> int:
    try:
        return int((INTERFACES / interface / "mtu").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _limit(which: int) -> int:
    soft, _ = resource.getrlimit(which)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def fingerprint(path: Path) -> str:
    """What tells that the same files are on two nodes: SHA-256 of names and sizes; empty where there is nothing.

    The content is not read, which may be terabytes.
    """
    try:
        if path.is_file():
            return _digest([("", path.stat().st_size)])
        files = sorted(one for one in path.rglob("*") if one.is_file())[:_MOST_FILES]
        sizes = [(one.relative_to(path).as_posix(), one.stat().st_size) for one in files]
    except OSError:
        return ""
    return _digest(sizes) if path.is_dir() else ""


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]


def _problems(asked: Asked, node: int) -> Sequence[Diagnostic]:
    """Everything for which `gptplan run` would refuse this node."""
    plan = asked.plan
    if plan is None:
        return missing_packages("torch")
    checks: list[Callable[[], None]] = [
        partial(check_machine, plan, asked.location, node),
        partial(check_toolchain, plan),
    ]
    if plan.layout.offload.tier == "nvme":
        checks.append(partial(check_nvme, plan, asked.nvme_path, node))
    found: list[Diagnostic] = []
    for check in checks:
        try:
            check()
        except PlanError as error:
            # What another stack needs is not known here; its devices and links are.
            found += [one for one in error.diagnostics if one.rule != OTHER_STACK]
    return found
