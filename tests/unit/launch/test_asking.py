"""Node 0 asks, the others answer; a node that says nothing is missing and holds up nobody."""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from planner.launch.asking import GO, STOP, answer, ask, ask_one, tell
from planner.launch.links import Endpoint, Meeting, Message, Peer


@pytest.fixture
def nodes() -> Iterator[tuple[Meeting, Meeting]]:
    """Node 0 with nodes 1 and 2, of which the second says nothing; and node 1."""
    ends = [socket.socketpair() for _ in (1, 2)]
    with contextlib.ExitStack() as stack:
        for one in itertools.chain(*ends):
            stack.enter_context(one).setblocking(False)
        store = Endpoint("127.0.0.1", 1)
        peers = [Peer(connection=left, node=number) for number, (left, _) in enumerate(ends, 1)]
        first = Meeting(node=0, peers=peers, store=store)
        yield first, Meeting(node=1, peers=[Peer(connection=ends[0][1], node=0)], store=store)


def test_questions_are_answered_and_silence_is_bounded(nodes: tuple[Meeting, Meeting]) -> None:
    first, second = nodes
    answers = {"twice": lambda data: data + data, "clock": lambda data: "5.0"}
    with ThreadPoolExecutor(1) as pool:
        goes_on = pool.submit(answer, second, answers)
        assert ask(first, "twice", "ab", timeout_s=0.5) == {1: "abab"}
        assert ask_one(first, 1, "clock") == "5.0"
        assert ask(first, "unknown", timeout_s=0.2) == {}
        tell(first, GO)
        assert goes_on.result(timeout=5)


def test_what_comes_after_the_last_question_is_heard_later(nodes: tuple[Meeting, Meeting]) -> None:
    first, second = nodes
    tell(first, STOP)
    first.peers[0].say(Message(failed="node 2 ended"))
    assert not answer(second, {})
    assert second.tick() == "node 2 ended"
