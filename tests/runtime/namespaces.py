"""Several nodes on one machine: network namespaces, each with an address, joined by a bridge with a rate."""

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.runtime import far

SUBNET, FAR_SUBNET = "10.213.7", "10.213.8"
BURST = "256kb"
"""What a link lets through at once; the kernel wants some milliseconds of its rate."""


@functools.cache
def unavailable() -> str:
    """Why this machine has none; empty if it has."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip") or not shutil.which("tc"):
        return "network namespaces need iproute2"
    if not far.TUN.exists():
        return f"a cable with a delay needs {far.TUN}"
    name = f"gptplan-{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "this machine makes no network namespaces"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Nodes:
    """Namespaces by number of the node, and that of the bridge between them."""

    names: tuple[str, ...]
    bridge: str

    def address(self, node: int) -> str:
        """That of a node among the others."""
        return f"{SUBNET}.{node + 1}"

    def within(self, node: int) -> tuple[str, ...]:
        """The command that starts another one on a node."""
        return ("ip", "netns", "exec", self.names[node])

    def cut(self, node: int) -> None:
        """Take the cable of a node out."""
        _ip("-n", self.bridge, "link", "set", f"port{node}", "down")

    def mend(self, node: int) -> None:
        """Put it in again."""
        _ip("-n", self.bridge, "link", "set", f"port{node}", "up")

    def limit(self, node: int, rate: str, device: str = "eth0") -> None:
        """Give the cable of a node a rate."""
        kind = ("tbf", "rate", rate, "burst", BURST, "latency", "500ms")
        command = ["tc", "-n", self.names[node], "qdisc", "replace", "dev", device, "root", *kind]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr

    @contextmanager
    def apart(self, delay_s: float) -> Iterator[tuple[str, str]]:
        """Addresses of the first two nodes at a cable of their own that takes ``delay_s`` one way."""
        addresses = (f"{FAR_SUBNET}.1", f"{FAR_SUBNET}.2")
        command = [sys.executable, str(Path(far.__file__)), *self.names[:2], str(delay_s)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cable:
            try:
                assert cable.stdout is not None
                assert cable.stdout.readline() == "on\n"
                for name, address in zip(self.names, addresses, strict=False):
                    _ip("-n", name, "address", "add", f"{address}/24", "dev", far.DEVICE)
                    _ip("-n", name, "link", "set", far.DEVICE, "mtu", str(far.MTU_BYTES), "up")
                yield addresses
            finally:
                cable.kill()

    def processes(self, node: int) -> list[int]:
        """Ids of those on a node."""
        found = subprocess.run(["ip", "netns", "pids", self.names[node]], capture_output=True, text=True, check=True)
        return [int(line) for line in found.stdout.split()]


@contextmanager
def joined(count: int) -> Iterator[Nodes]:
    """``count`` nodes that reach each other; nothing of them is left afterwards."""
    names = [f"gptplan-{os.getpid()}-{node}" for node in range(count)]
    nodes = Nodes(tuple(names), f"gptplan-{os.getpid()}-bridge")
    try:
        _ip("netns", "add", nodes.bridge)
        _ip("-n", nodes.bridge, "link", "add", "bridge", "type", "bridge")
        _ip("-n", nodes.bridge, "link", "set", "bridge", "up")
        for node, name in enumerate(names):
            _add(nodes, node, name)
        yield nodes
    finally:
        for name in (*names, nodes.bridge):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _add(nodes: Nodes, node: int, name: str) -> None:
    port = f"port{node}"
    _ip("netns", "add", name)
    _ip("-n", nodes.bridge, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("-n", nodes.bridge, "link", "set", port, "master", "bridge", "up")
    for commands in _set_up(nodes.address(node)):
        _ip("-n", name, *commands)


def _set_up(address: str) -> Sequence[tuple[str, ...]]:
    return (
        ("link", "set", "lo", "up"),
        ("address", "add", f"{address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
    )
