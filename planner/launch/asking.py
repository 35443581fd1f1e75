"""Questions between the launchers of a run, before its ranks start: node 0 asks, the others answer."""

import select
import time
from collections.abc import Callable, Mapping

from planner.launch import links
from planner.launch.links import Meeting, Message, Peer
from planner.launch.meeting import failed

GO, STOP = "go", "stop"
"""The last of the questions: whether the ranks start."""
ANSWER_S = 30.0
"""How long an answer may take."""

Answers = Mapping[str, Callable[[str], str]]
"""What a node answers to a question and what goes with it, as JSON."""


def ask(meeting: Meeting, question: str, data: str = "", *, timeout_s: float = ANSWER_S) -> dict[int, str]:
    """What the other nodes answer, as JSON; a node that does not answer in time is missing."""
    waiting = {peer.node: peer for peer in meeting.peers if peer.node is not None and not peer.closed}
    return _asked(waiting, question, data, timeout_s)


def ask_one(meeting: Meeting, node: int, question: str, *, timeout_s: float = ANSWER_S) -> str | None:
    """What one node answers, as JSON; ``None`` if it does not in time."""
    waiting = {number: peer for peer in meeting.peers if (number := peer.node) == node and not peer.closed}
    return _asked(waiting, question, "", timeout_s).get(node)


def _asked(waiting: dict[int, Peer], question: str, data: str, timeout_s: float) -> dict[int, str]:
    for peer in waiting.values():
        peer.say(Message(ask=question, data=data))
    found: dict[int, str] = {}
    deadline = time.monotonic() + timeout_s
    while waiting and (left := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([peer.connection for peer in waiting.values()], [], [], min(left, 1.0))
        for node, peer in list(waiting.items()):
            heard = peer.hear() if peer.connection in ready else ()
            if (message := peer.until(lambda one: one.answer == question, heard)) is not None:
                found[node] = message.data
            peer.beat()
            if node in found or peer.closed:
                del waiting[node]
    return found


def answer(meeting: Meeting, answers: Answers) -> bool:
    """Answer until node 0 says whether the ranks start.

    Raises:
        PlanError: node 0 has gone.
    """
    (peer,) = meeting.peers
    while True:
        ready = peer.unread or select.select([peer.connection], [], [], 1.0)[0]
        while message := peer.until(lambda one: bool(one.ask), peer.hear() if ready else ()):
            if message.ask in (GO, STOP):
                return message.ask == GO
            if message.ask in answers:
                peer.say(Message(answer=message.ask, data=answers[message.ask](message.data)))
        if peer.closed or time.monotonic() - peer.heard_s > links.SILENCE_S:
            raise failed("node 0 has gone", "see what it printed; start all nodes again")
        peer.beat()


def tell(meeting: Meeting, word: str) -> None:
    """Say :data:`GO` or :data:`STOP` to all nodes."""
    for peer in meeting.peers:
        peer.say(Message(ask=word))
