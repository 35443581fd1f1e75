"""The connections between the launchers of a run: each learns through them when another has ended.

A launcher that says nothing for a while, or says that its ranks failed, ends the run on every node. The messages are
lines of JSON of a bounded length; nothing that arrives is unpickled or executed.
"""

import fcntl
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple

import msgspec

from planner.handover.work import MOST_NODES

MOST_LINE_BYTES = 65_536
BEAT_S = 2.0
SILENCE_S = 20.0
"""After so long without a word another node counts as lost; a link may be gone for less."""
OVERDUE_S = 2.5 * BEAT_S
_SIOCGIFADDR = 0x8915
"""Asks Linux for the address of an interface (netdevice(7))."""


class Endpoint(NamedTuple):
    """Where node 0 is met."""

    host: str
    port: int

    def __str__(self) -> str:
        """``HOST:PORT`` as it was typed."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one launcher says to another; a beat says nothing else than that it is there."""

    node: Annotated[int, msgspec.Meta(ge=0, le=MOST_NODES)] | None = None
    """Who says hello, with the next three."""
    num_nodes: int = 0
    digest: str = ""
    devices: str = ""
    go: tuple[str, int] | None = None
    """All nodes are there; host and port at which the ranks meet."""
    refused: str = ""
    failed: str = ""
    """Why the run has ended on a node, with the next three."""
    code: int = 0
    """The exit code of what failed there."""
    signal: int = 0
    """The signal by which a person or a batch system ended it, if nothing failed."""
    log: tuple[str, ...] = ()
    """The last lines of its log."""
    done: bool = False
    ask: str = ""
    """A question of node 0: :mod:`planner.launch.asking`."""
    answer: str = ""
    """The question that is answered."""
    data: str = ""
    """What goes with either, as JSON."""


@dataclass(kw_only=True)
class Peer:
    """The launcher of another node, behind an open connection."""

    connection: socket.socket
    node: int | None = None
    """Which one, once it has said so and until it is done."""
    heard_s: float = field(default_factory=time.monotonic)
    said_s: float = 0.0
    pending: bytes = b""
    unread: list[Message] = field(default_factory=list)
    """What came together with a message after which somebody else listens."""
    closed: bool = False

    def say(self, message: Message) -> None:
        """Send one message; a peer that does not take it is closed."""
        try:
            self.connection.sendall(msgspec.json.encode(message) + b"\n")
        except OSError:
            self.closed = True
        self.said_s = time.monotonic()

    def beat(self) -> None:
        """Say that this node is there, now and then."""
        if time.monotonic() - self.said_s > BEAT_S:
            self.say(Message())

    def hear(self) -> list[Message]:
        """The messages that have come in; who sends something else is closed."""
        found, self.unread = self.unread, []
        try:
            data = self.connection.recv(MOST_LINE_BYTES)
        except BlockingIOError:
            return found
        except OSError:
            data = b""
        self.heard_s = time.monotonic()
        *lines, self.pending = (self.pending + data).split(b"\n")
        self.closed |= not data or len(self.pending) > MOST_LINE_BYTES
        try:
            return found + [msgspec.json.decode(line, type=Message) for line in lines]
        except msgspec.DecodeError:
            self.closed = True
            return found

    def until(self, ends: Callable[[Message], bool], messages: Sequence[Message]) -> Message | None:
        """The first message that ends a conversation, with those after it left to be heard; ``None`` if none does."""
        for index, message in enumerate(messages):
            if ends(message):
                self.unread += messages[index + 1 :]
                return message
        return None


@dataclass(kw_only=True)
class Meeting:
    """All launchers of a run, connected to that of node 0."""

    node: int
    peers: list[Peer]
    """On node 0 all the others, elsewhere node 0."""
    store: Endpoint
    """Where the ranks meet: a port of node 0."""
    listener: socket.socket | None = None
    """On node 0 the socket that listens there, for rank 0."""
    address: str = ""
    """That of this node among the others."""
    failure: Message | None = None
    """Why the run ends, once that is known of another node."""

    @property
    def reason(self) -> str:
        """Why the run ends, in one line; empty while it does not."""
        return "" if self.failure is None else self.failure.failed

    def tick(self) -> str:
        """Hear and say what is due; why the run has to end, or nothing. To be called several times a second."""
        now = time.monotonic()
        for peer in self.peers:
            for message in peer.hear():
                self._heard(peer, message)
            if peer.closed and not self.reason and peer.node is not None:
                self.failure = Message(failed=f"the launcher of node {peer.node} has ended, or its connection has")
            elif now - peer.heard_s > SILENCE_S and not self.reason:
                self.failure = Message(failed=f"nothing was heard of node {peer.node} for {SILENCE_S:.0f} s")
            peer.beat()
        self.peers = open_peers(self.peers)
        return self.reason

    def _heard(self, peer: Peer, message: Message) -> None:
        if message.done:
            peer.node = None  # it may leave
        elif message.failed and not self.reason:
            self.failure = message
            for other in self.peers:
                if other is not peer:
                    other.say(message)

    def leave(self, failure: Message | None = None) -> None:
        """Tell the others how this node ended, unless they know, and close the connections."""
        for peer in self.peers:
            if failure is not None and not self.reason:
                peer.say(failure)
            elif failure is None:
                peer.say(Message(done=True))
            peer.connection.close()
        if self.listener is not None:
            self.listener.close()

    def late_reason(self, wait_s: float) -> str:
        """Why the run ends, where another node may know better and is about to say so.

        One that has not been heard for some time may be lost; whether it is, shows within :data:`SILENCE_S`.
        """
        deadline = time.monotonic() + wait_s
        while not self.tick() and self.peers and (time.monotonic() < deadline or self._is_overdue()):
            time.sleep(0.05)
        return self.reason

    def _is_overdue(self) -> bool:
        now = time.monotonic()
        return any(peer.node is not None and now - peer.heard_s > OVERDUE_S for peer in self.peers)


def open_peers(peers: Sequence[Peer]) -> list[Peer]:
    """The peers that are not closed; the connections of the others are."""
    for peer in peers:
        if peer.closed:
            peer.connection.close()
    return [peer for peer in peers if not peer.closed]


def interface_of(address: str) -> str:
    """The network interface that has an IPv4 address, such as ``eth0``; empty if none has."""
    for _, name in socket.if_nameindex():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
            found = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return ""
