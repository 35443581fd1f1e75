"""How the nodes of a run find each other.

Node 0 listens at the address that it was given and at no other. The launchers of the other nodes connect, say which
node they are and what they run, and stay connected (:mod:`planner.launch.links`). Who does not say the digest of the
plan is let go.
"""

import errno
import ipaddress
import select
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.launch import links
from planner.launch.links import Endpoint, Meeting, Message, Peer, open_peers

HELLO_TIMEOUT_S = 10.0
"""How long a stranger may stay without a word."""
SAY_EVERY_S = 30.0
LINGER_S = 10.0
"""How long node 0 tells those who come why there is no run."""

Say = Callable[[str], None]


def failed(message: str, hint: str, detail: str = "") -> PlanError:
    """The nodes do not meet: exit code 1."""
    found = Diagnostic(rule="RUN010", message=message, detail=detail, hint=hint)
    return PlanError(found, exit_code=ExitCode.NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the nodes have to agree on."""

    digest: str
    num_nodes: int
    node: int
    devices: str = ""
    """What its devices are, which have to be the same on all nodes; empty where that is not compared."""


def meet(endpoint: Endpoint, run: Run, *, timeout_s: float, say: Say) -> Meeting:
    """Wait until every node of the run is connected.

    Args:
        endpoint: the address of node 0 and a port of it.
        run: what is run, and which of its nodes this is.
        timeout_s: how long to wait for the others.
        say: told at once, and now and then, who is missing.

    Raises:
        PlanError: a node did not come in time or runs something else, or the port cannot be listened at.
    """
    deadline = time.monotonic() + timeout_s
    _tell_loopback(endpoint, say)
    if run.node == 0:
        host = _Host(endpoint, run, deadline, timeout_s, say)
        try:
            return host.wait()
        except BaseException as error:
            if not isinstance(error, Exception):
                host.refuse_all("it was asked to end")
            raise
    return _join(endpoint, run, deadline, timeout_s, say)


def is_loopback(address: str) -> bool:
    """Whether only this machine itself is reached at an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _tell_loopback(endpoint: Endpoint, say: Say) -> None:
    """Say where a name that others know stands for this machine alone, as many systems have it of their own name."""
    _, address = resolved(endpoint)
    if is_loopback(address[0]) and endpoint.host not in (address[0], "localhost"):
        say(
            f"note: `{endpoint.host}` is {address[0]} on this machine, where no other one is met; "
            "name the address of node 0 with `--rendezvous HOST:PORT`"
        )


def resolved(endpoint: Endpoint) -> tuple[int, Any]:
    """Family and address of a socket there.

    Raises:
        PlanError: this machine knows no such host.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        hint = "name node 0 as every node knows it, or by its address, with `--rendezvous HOST:PORT`"
        raise failed(f"this machine finds no host `{endpoint.host}`: {error.strerror}", hint) from error
    return family, address


def _listen(family: int, address: Any, shown: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            hint = "name another port with `--rendezvous HOST:PORT`, the same on every node"
            raise failed(f"{shown} is in use", hint) from error
        message = f"node 0 cannot listen at {shown}: {error.strerror}"
        raise failed(message, "start node 0 where that address is, or name another with `--rendezvous`") from error
    return listener


class _Host:
    """Node 0 while it waits for the others."""

    def __init__(self, endpoint: Endpoint, run: Run, deadline: float, timeout_s: float, say: Say) -> None:
        """Listen at ``endpoint`` only."""
        self.endpoint, self.run, self.deadline, self.timeout_s, self.say = endpoint, run, deadline, timeout_s, say
        family, address = resolved(endpoint)
        self.listener = _listen(family, address, str(endpoint))
        self.store = _listen(family, (address[0], 0, *address[2:]), endpoint.host)
        self.peers: list[Peer] = []
        self.said_s = 0.0

    def wait(self) -> Meeting:
        """Everyone, or an error that names who did not come."""
        with self.listener:
            while missing := self._missing():
                self._tell(missing)
                if time.monotonic() > self.deadline:
                    message = f"{_nodes(missing)} did not come to {self.endpoint} within {self.timeout_s:.0f} s"
                    hint = "start every node with its own `--node-rank` and the same plan and `--rendezvous HOST:PORT`"
                    self.refuse_all(message)
                    raise failed(message, hint)
                ready, _, _ = select.select([self.listener, *(p.connection for p in self.peers)], [], [], 1.0)
                self._receive(ready)
        store = Endpoint(self.endpoint.host, self.store.getsockname()[1])
        members = [peer for peer in self.peers if peer.node is not None]
        for peer in self.peers:
            if peer.node is None:
                peer.connection.close()
            else:
                peer.say(Message(go=(store.host, store.port)))
        return Meeting(node=0, peers=members, store=store, listener=self.store, address=self.store.getsockname()[0])

    def _missing(self) -> list[int]:
        here = {peer.node for peer in self.peers if not peer.closed}
        return [node for node in range(1, self.run.num_nodes) if node not in here]

    def _tell(self, missing: Sequence[int]) -> None:
        now = time.monotonic()
        if now - self.said_s > SAY_EVERY_S:
            self.said_s = now
            left = max(0.0, self.deadline - now)
            self.say(f"waiting for {_nodes(missing)} at {self.endpoint}, for {left:.0f} s at most")

    def refuse_all(self, why: str) -> None:
        """Tell everybody who has come why they have come in vain."""
        for peer in self.peers:
            peer.say(Message(refused=why))
            peer.connection.close()
        self.store.close()

    def _give_up(self, message: str, hint: str) -> NoReturn:
        """End, and before that tell those who come a little later."""
        # Who has connected and not said yet which node it is learns it too, and counts under a number of no node.
        told = {0, *(-1 - index if peer.node is None else peer.node for index, peer in enumerate(self.peers))}
        self.refuse_all(message)
        if self.run.num_nodes > len(told):
            self.say(f"{message}; telling the nodes that still come, for {LINGER_S:.0f} s at most")
        _tell_comers(self.listener, told, self.run.num_nodes, message, time.monotonic() + LINGER_S)
        raise failed(message, hint)

    def _receive(self, ready: Sequence[socket.socket]) -> None:
        if self.listener in ready:
            connection, _ = self.listener.accept()
            connection.setblocking(False)
            self.peers.append(Peer(connection=connection))
        for peer in self.peers:
            for message in peer.hear() if peer.connection in ready else ():
                self._hello(peer, message)
            if peer.node is not None:
                peer.beat()
            elif time.monotonic() - peer.heard_s > HELLO_TIMEOUT_S:
                peer.closed = True
        for peer in self.peers:
            if peer.closed and peer.node is not None:
                self.said_s = 0.0
                self.say(f"node {peer.node} has gone before all were there")
        self.peers = open_peers(self.peers)

    def _hello(self, peer: Peer, message: Message) -> None:
        if message.failed and message.digest == self.run.digest and message.node is not None:
            peer.node = message.node
            self._give_up(f"node {message.node} cannot run: {message.failed}", "mend that node, and start all again")
        if peer.node is not None or message.node is None:
            return
        missing = self._missing()
        if message.digest != self.run.digest:
            self._refuse(peer, f"node 0 runs the plan with digest {self.run.digest}")
        elif message.num_nodes != self.run.num_nodes or message.node not in missing:
            self._refuse(peer, f"node 0 waits for {_nodes(missing)}, not for node {message.node}")
        elif message.devices != self.run.devices:
            kinds = f"node {message.node} has {message.devices or 'none'}, and node 0 {self.run.devices or 'none'}"
            why = f"{kinds}: nodes of different kinds are not planned for yet"
            peer.node = message.node
            self._give_up(why, "use nodes of one kind")
        else:
            peer.node, self.said_s = message.node, 0.0

    def _refuse(self, peer: Peer, why: str) -> None:
        peer.say(Message(refused=why))
        peer.closed = True


def _nodes(nodes: Sequence[int]) -> str:
    if len(nodes) == 1:
        return f"node {nodes[0]}"
    return f"nodes {', '.join(map(str, nodes[:-1]))} and {nodes[-1]}" if nodes else "no other node"


def _join(endpoint: Endpoint, run: Run, deadline: float, timeout_s: float, say: Say) -> Meeting:
    say(f"waiting for node 0 at {endpoint}, for {timeout_s:.0f} s at most")
    connection = _connected(endpoint, deadline, timeout_s)
    peer = Peer(connection=connection, node=0)
    try:
        return _accepted(peer, endpoint, run, deadline, say)
    except BaseException as error:
        if not isinstance(error, Exception):
            peer.say(Message(node=run.node, digest=run.digest, failed="it was asked to end"))
        connection.close()
        raise


def _accepted(peer: Peer, endpoint: Endpoint, run: Run, deadline: float, say: Say) -> Meeting:
    """Say hello to node 0, and wait until it says that all are there."""
    peer.say(Message(node=run.node, digest=run.digest, num_nodes=run.num_nodes, devices=run.devices))
    said_s = time.monotonic()
    say("node 0 is there; waiting for the other nodes")
    while True:
        ready, _, _ = select.select([peer.connection], [], [], 1.0)
        message = peer.until(lambda one: bool(one.refused or one.go), peer.hear() if ready else ())
        if message is not None and message.go is not None:
            own = peer.connection.getsockname()[0]
            return Meeting(node=run.node, peers=[peer], store=Endpoint(*message.go), address=own)
        if message is not None:
            hint = "start every node with the same plan and `--rendezvous`, and its own `--node-rank`"
            raise failed(f"node 0 refused node {run.node}: {message.refused}", hint)
        now = time.monotonic()
        if peer.closed or now - peer.heard_s > links.SILENCE_S or now > deadline:
            raise failed(f"node 0 at {endpoint} has gone", "start all nodes again")
        peer.beat()
        if now - said_s > SAY_EVERY_S:
            said_s = now
            say("still waiting for the other nodes")


def excuse(endpoint: Endpoint, run: Run, why: str, *, timeout_s: float) -> None:
    """Tell the others, who wait, that this node cannot run, if they are reached within ``timeout_s``.

    Node 0 tells those who come to it, until all have come.
    """
    deadline = time.monotonic() + timeout_s
    with suppress(PlanError, OSError):
        if run.node:
            connection = _connected(endpoint, deadline, timeout_s)
            Peer(connection=connection).say(Message(node=run.node, digest=run.digest, failed=why))
            connection.close()
            return
        family, address = resolved(endpoint)
        with _listen(family, address, str(endpoint)) as listener:
            _tell_comers(listener, {0}, run.num_nodes, f"it cannot run: {why}", deadline)


def _tell_comers(listener: socket.socket, told: set[int], num_nodes: int, why: str, deadline: float) -> None:
    """Refuse those who come, until all have been ``told`` or the time is over."""
    while len(told) < num_nodes and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([listener], [], [], left)
        for one in ready:
            connection, _ = one.accept()
            told |= _told(connection, Message(refused=why), deadline)


def _told(connection: socket.socket, message: Message, deadline: float) -> set[int]:
    """Answer the hello of another node; which one it is, if it is one."""
    with connection:
        connection.settimeout(max(0.1, min(1.0, deadline - time.monotonic())))
        peer = Peer(connection=connection)
        nodes = {one.node for one in peer.hear() if one.node is not None}
        peer.say(message)
        return nodes


def _connected(endpoint: Endpoint, deadline: float, timeout_s: float) -> socket.socket:
    resolved(endpoint)
    reason = ""
    while time.monotonic() < deadline:
        try:
            connection = socket.create_connection(endpoint, timeout=2.0)
        except OSError as error:
            reason = error.strerror or str(error)
            time.sleep(0.5)
            continue
        connection.setblocking(False)
        return connection
    hint = "start node 0, with the same plan and `--node-rank 0`; a firewall may be in the way"
    raise failed(f"node 0 was not reached at {endpoint} within {timeout_s:.0f} s", hint, reason)
