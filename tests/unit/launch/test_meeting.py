"""Nodes meet, name who is missing, and learn of each other's end; on loopback, each launcher a thread."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.launch import links, meeting
from planner.launch.links import Endpoint, Meeting, Message, interface_of
from planner.launch.meeting import Run, excuse, meet


@pytest.fixture
def endpoint() -> Endpoint:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Endpoint("127.0.0.1", probe.getsockname()[1])


def node(number: int, *, of: int, digest: str = "sha256:1") -> Run:
    return Run(digest=digest, num_nodes=of, node=number)


def silent(text: str) -> None:
    assert text


@contextmanager
def together(endpoint: Endpoint, count: int) -> Iterator[list[Meeting]]:
    """All nodes of a run, met."""
    with ThreadPoolExecutor(count) as pool:
        met = [pool.submit(meet, endpoint, node(k, of=count), timeout_s=10, say=silent) for k in range(count)]
        meetings = [one.result() for one in met]
    try:
        yield meetings
    finally:
        for one in meetings:
            one.leave()


def reason_of(one: Meeting, timeout_s: float = 5.0) -> str:
    return one.late_reason(timeout_s)


def test_all_nodes_agree_where_the_ranks_meet(endpoint: Endpoint) -> None:
    with together(endpoint, 3) as meetings:
        assert {one.store for one in meetings} == {meetings[0].store}
        assert meetings[0].listener is not None
        assert meetings[0].listener.getsockname() == ("127.0.0.1", meetings[0].store.port)
        assert [one.tick() for one in meetings] == ["", "", ""]


def test_a_name_that_is_this_machine_alone_is_told(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(host: str, *asked: object, **settings: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", endpoint.port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    told: list[str] = []
    with pytest.raises(PlanError, match="node 1 did not come"):
        meet(Endpoint("node0", endpoint.port), node(0, of=2), timeout_s=0, say=told.append)
    assert told[0].startswith("note: `node0` is 127.0.1.1 on this machine, where no other one is met; ")


def test_what_failed_on_one_node_is_known_on_all(endpoint: Endpoint) -> None:
    with together(endpoint, 3) as meetings:
        meetings[2].leave(Message(failed="node 2: rank 4 was killed by SIGKILL", code=137, log=("its last words",)))
        assert reason_of(meetings[0]) == "node 2: rank 4 was killed by SIGKILL"
        assert reason_of(meetings[1]) == "node 2: rank 4 was killed by SIGKILL"
        assert [one.failure and one.failure.log for one in meetings[:2]] == [("its last words",)] * 2


@pytest.mark.parametrize("lost", [0, 1])
def test_a_launcher_that_dies_is_named(lost: int, endpoint: Endpoint) -> None:
    with together(endpoint, 2) as meetings:
        for peer in meetings[lost].peers:
            peer.connection.close()
        meetings[lost].peers = []
        assert reason_of(meetings[1 - lost]) == f"the launcher of node {lost} has ended, or its connection has"


def test_silence_ends_the_run(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SILENCE_S", 1.0)
    with together(endpoint, 2) as meetings:
        assert reason_of(meetings[0]) == "nothing was heard of node 1 for 1 s"


def test_a_rank_that_failed_because_a_node_is_silent_waits_for_the_verdict(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "SILENCE_S", 1.5)
    monkeypatch.setattr(links, "OVERDUE_S", 0.3)
    with together(endpoint, 2) as meetings:
        time.sleep(0.4)
        assert reason_of(meetings[0], 0.0) == "nothing was heard of node 1 for 2 s"


def test_beats_keep_the_run(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "SILENCE_S", 1.0)
    monkeypatch.setattr(links, "BEAT_S", 0.2)
    with together(endpoint, 2) as meetings:
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            assert [one.tick() for one in meetings] == ["", ""]
            time.sleep(0.05)


def test_a_node_that_is_done_may_leave(endpoint: Endpoint) -> None:
    with together(endpoint, 2) as meetings:
        meetings[1].leave()
        assert reason_of(meetings[0], 1.0) == ""


def refused(start: Callable[[], Meeting]) -> PlanError:
    with pytest.raises(PlanError) as caught:
        start()
    assert caught.value.exit_code == ExitCode.NEGATIVE
    assert caught.value.diagnostics[0].hint
    return caught.value


def test_who_is_missing_is_said_at_once_and_at_the_end(endpoint: Endpoint) -> None:
    said: list[str] = []
    error = refused(lambda: meet(endpoint, node(0, of=3), timeout_s=1, say=said.append))
    assert said[0] == f"waiting for nodes 1 and 2 at {endpoint}, for 1 s at most"
    assert str(error) == f"nodes 1 and 2 did not come to {endpoint} within 1 s"


def test_a_node_0_that_is_not_there_is_bounded(endpoint: Endpoint) -> None:
    said: list[str] = []
    error = refused(lambda: meet(endpoint, node(1, of=2), timeout_s=1, say=said.append))
    assert said == [f"waiting for node 0 at {endpoint}, for 1 s at most"]
    assert str(error) == f"node 0 was not reached at {endpoint} within 1 s"


def test_those_who_came_learn_who_did_not(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(refused, lambda: meet(endpoint, node(0, of=3), timeout_s=2, say=silent))
        other = pool.submit(refused, lambda: meet(endpoint, node(1, of=3), timeout_s=10, say=silent))
        assert str(host.result()) == f"node 2 did not come to {endpoint} within 2 s"
        assert str(other.result()) == f"node 0 refused node 1: node 2 did not come to {endpoint} within 2 s"


def test_a_node_that_cannot_run_tells_the_others_at_once(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(2) as pool:
        host = pool.submit(refused, lambda: meet(endpoint, node(0, of=3), timeout_s=20, say=silent))
        other = pool.submit(refused, lambda: meet(endpoint, node(1, of=3), timeout_s=20, say=silent))
        began_s = time.monotonic()
        excuse(endpoint, node(2, of=3), "no GPU was found", timeout_s=5)
        assert str(host.result()) == "node 2 cannot run: no GPU was found"
        assert str(other.result()).startswith("node 0 ")
        assert time.monotonic() - began_s < 10


def test_a_node_0_that_cannot_run_tells_those_who_come(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(2) as pool:
        gone = pool.submit(excuse, endpoint, node(0, of=2), "no GPU was found", timeout_s=10)
        error = refused(lambda: meet(endpoint, node(1, of=2), timeout_s=10, say=silent))
        assert str(error) == "node 0 refused node 1: it cannot run: no GPU was found"
        gone.result(timeout=5)


def test_nodes_of_different_kinds_are_refused(endpoint: Endpoint) -> None:
    runs = [Run(digest="sha256:1", num_nodes=2, node=k, devices=name) for k, name in enumerate(("H100", "A100"))]
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(refused, lambda: meet(endpoint, runs[0], timeout_s=10, say=silent))
        error = refused(lambda: meet(endpoint, runs[1], timeout_s=10, say=silent))
        why = "node 1 has A100, and node 0 H100: nodes of different kinds are not planned for yet"
        assert str(host.result()) == why
        assert str(error) == f"node 0 refused node 1: {why}"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (node(1, of=2, digest="sha256:2"), "node 0 runs the plan with digest sha256:1"),
        (node(1, of=3), "node 0 waits for node 1, not for node 1"),
        (node(2, of=2), "node 0 waits for node 1, not for node 2"),
    ],
)
def test_a_node_of_another_run_is_refused(wrong: Run, why: str, endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(1) as pool:
        host: Future[Meeting] = pool.submit(meet, endpoint, node(0, of=2), timeout_s=10, say=silent)
        error = refused(lambda: meet(endpoint, wrong, timeout_s=10, say=silent))
        assert str(error) == f"node 0 refused node {wrong.node}: {why}"
        meet(endpoint, node(1, of=2), timeout_s=10, say=silent).leave()
        host.result().leave()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x80\x04\x95\x1a\x00\x00\x00cos\nsystem\n(S'touch owned'\ntR.\n",
        b'{"go": ["10.0.0.1", 1]}\n',
        b'{"node": true}\n' * 3,
        b"[" * 20_000 + b"\n",
        b"{" + b'"digest": "' + b"x" * 40_000,
    ],
)
def test_a_stranger_changes_nothing(sent: bytes, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "HELLO_TIMEOUT_S", 0.5)
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(meet, endpoint, node(0, of=2), timeout_s=10, say=silent)
        stranger = meeting._connected(endpoint, time.monotonic() + 5, 5)
        stranger.setblocking(True)
        stranger.sendall(sent)
        meet(endpoint, node(1, of=2), timeout_s=10, say=silent).leave()
        host.result().leave()
        stranger.close()


def test_a_port_in_use_is_named(endpoint: Endpoint) -> None:
    with socket.socket() as taken:
        taken.bind(endpoint)
        taken.listen()
        error = refused(lambda: meet(endpoint, node(0, of=2), timeout_s=1, say=silent))
    assert str(error) == f"{endpoint} is in use"


def test_a_host_that_is_not_known_is_named() -> None:
    error = refused(lambda: meet(Endpoint("no-such-host.invalid", 1234), node(1, of=2), timeout_s=1, say=silent))
    assert str(error).startswith("this machine finds no host `no-such-host.invalid`: ")


def test_node_0_listens_at_its_own_address_only(endpoint: Endpoint) -> None:
    with ThreadPoolExecutor(1) as pool:
        host = pool.submit(refused, lambda: meet(endpoint, node(0, of=2), timeout_s=1.5, say=silent))
        time.sleep(0.5)
        with socket.socket() as other:
            assert other.connect_ex(("127.0.0.2", endpoint.port)) != 0
        host.result()
    assert threading.active_count() >= 1


def test_an_address_leads_to_its_interface() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""
