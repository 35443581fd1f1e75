"""The zero-bubble V schedule: which layers a device holds, and in which order it works.

The layers are cut into ``2 p`` slots for ``p`` stages. Slots go down the stages and back up again, as in a V: stage
``s`` holds slot ``s`` as its chunk 0 and slot ``2 p - 1 - s`` as its chunk 1, so that the first stage holds the
embedding and the loss head (Qi et al., Pipeline Parallelism with Controllable Memory, arXiv 2405.15362, section 3).
Backward is cut in two: the gradient of the input, for which the stage before waits, and those of the weights, for
which nothing waits (Qi et al., Zero Bubble Pipeline Parallelism, arXiv 2401.10241, section 2).

Where stages recompute, the weights' gradients follow those of the input at once: put off, they would hold about what
recomputing frees, while one micro batch of a chunk holds them so. All stages recompute then, or none does.

The order depends on nothing but that and the number of stages and of micro batches, so that a plan need not hold it.
"""

import functools
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

CHUNKS = 2
"""Chunks of a stage."""
LEAST_STEADY = 6
"""Micro batches, in multiples of the stages, of which those in the middle are worked on in the steady state.

From twice the stages on, and until twice the stages before the last, they repeat each other's order.
"""

Count = TypeVar("Count", int, NDArray[np.int64])
"""A number, or a column of them."""
Kind = Literal["F", "B", "W"]
"""Forward, gradient of the input, gradients of the weights: the library's names (v_schedule.py:369)."""


class Node(NamedTuple):
    """One piece of work of a stage."""

    kind: Kind
    chunk: int
    """0 on the way down, 1 on the way up."""
    microbatch: int


def slot_of(stage: int, chunk: int, num_stages: int) -> int:
    """The slot of a chunk, which counts from the embedding to the head (colossalai 0.5.0: stage_manager.py:62-105)."""
    return stage if chunk == 0 else CHUNKS * num_stages - 1 - stage


def stage_of(slot: int, num_stages: int) -> int:
    """The stage that holds a slot."""
    return min(slot, CHUNKS * num_stages - 1 - slot)


def most_held(num_stages: Count) -> Count:
    """Micro batches of one chunk whose activations a stage holds at most: as many layers' as 1F1B's first stage."""
    return num_stages * CHUNKS


def held_at_backward(
    stage: NDArray[np.int64], chunk: int, num_stages: NDArray[np.int64], num_microbatches: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Micro batches of both chunks whose activations a stage holds, at most, when a chunk of it begins backward.

    Of stages that recompute; the one that goes backward is among them, and no other waits for weight gradients. When
    the second chunk begins they are the most that a stage holds at all, but for one of the first chunk in place of one
    of the second.
    """
    return np.minimum(num_microbatches, CHUNKS * num_stages - stage - chunk), stage + chunk


@functools.lru_cache(maxsize=64)
def node_order(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> tuple[tuple[Node, ...], ...]:
    """The work of each stage in its order; see :func:`node_sequence`."""
    orders: list[list[Node]] = [[] for _ in range(num_stages)]
    for stage, node in node_sequence(num_stages, num_microbatches, recomputes=recomputes):
        orders[stage].append(node)
    return tuple(map(tuple, orders))


@functools.lru_cache(maxsize=64)
def node_sequence(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> tuple[tuple[int, Node], ...]:
    """All work of all stages, which recompute or do not, each with its stage and after what it waits for.

    As :func:`put_in_order` has it, of which it repeats the middle for micro batches beyond :data:`LEAST_STEADY`.

    Raises ``ValueError`` without a stage or a micro batch.
    """
    if min(num_stages, num_microbatches) < 1:
        raise ValueError(f"{num_stages} stages and {num_microbatches} micro batches have no schedule")
    more = num_microbatches - LEAST_STEADY * num_stages
    if more <= 0:
        return put_in_order(num_stages, num_microbatches, recomputes=recomputes)
    shorter = node_sequence(num_stages, num_microbatches - more, recomputes=recomputes)
    middle, each = len(shorter) // 2, 3 * CHUNKS * num_stages
    repeated = (_later(shorter[middle : middle + each], number) for number in range(more))
    return (*shorter[:middle], *itertools.chain(*repeated), *_later(shorter[middle:], more))


def put_in_order(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> tuple[tuple[int, Node], ...]:
    """All work of all stages, each with its stage and after what it waits for, one piece after the other.

    In the steady state all stages do one forward, one backward and the gradients of one chunk's weights in every
    round, and what goes from a slot to the next is needed in the round after: :func:`_rounds`. Where a stage would
    wait, it computes weight gradients that it put off, or while the pipeline fills a forward of its first chunk that
    would have its turn later; both as if each piece of work took the same time. Stages that recompute put none off.
    A stage never holds the activations of more than :func:`most_held` micro batches of a chunk.
    """
    done = _Done(num_stages, num_microbatches)
    stages = [_Stage(stage, done, recomputes=recomputes) for stage in range(num_stages)]
    found: list[tuple[int, Node]] = []
    clock = 0
    while len(found) < 3 * CHUNKS * num_stages * num_microbatches:
        found += ((stage, node) for stage, own in enumerate(stages) if (node := own.work(clock)) is not None)
        clock += 1
    return tuple(found)


def _later(work: Sequence[tuple[int, Node]], number: int) -> Iterator[tuple[int, Node]]:
    """The same work of micro batches that come so many after."""
    return ((stage, Node(kind, chunk, microbatch + number)) for stage, (kind, chunk, microbatch) in work)


class _Done:
    """When forward and backward of each slot and micro batch ended, in pieces of work; what has not is not there."""

    def __init__(self, num_stages: int, num_microbatches: int) -> None:
        self.num_stages, self.num_microbatches = num_stages, num_microbatches
        self.last = CHUNKS * num_stages - 1
        self._ends: dict[tuple[Kind, int, int], int] = {}

    def add(self, kind: Kind, slot: int, microbatch: int, end: int) -> None:
        self._ends[kind, slot, microbatch] = end

    def is_ready(self, kind: Kind, slot: int, microbatch: int, clock: int) -> bool:
        """Whether the input of a piece of work is there."""
        if kind == "F" and slot == 0:
            return True
        if kind == "F":
            before = ("F", slot - 1, microbatch)
        else:
            before = ("F", slot, microbatch) if slot == self.last else ("B", slot + 1, microbatch)
        return self._ends.get(before, clock + 1) <= clock  # type: ignore[arg-type]


def _rounds(stage: int, num_stages: int, num_microbatches: int) -> list[Node]:
    """Forwards and backwards of a stage in the order of their rounds.

    Micro batch ``m`` goes forward through slot ``k`` in round ``2 m + k`` and back in ``2 m + 4 p - 2 - k``. The slots
    of a stage are one even and one odd, so that a round has at most one of each.
    """
    nodes = []
    for chunk in range(CHUNKS):
        slot = slot_of(stage, chunk, num_stages)
        for microbatch in range(num_microbatches):
            forward, backward = 2 * microbatch + slot, 2 * microbatch + 4 * num_stages - 2 - slot
            nodes += [(forward, 0, Node("F", chunk, microbatch)), (backward, 1, Node("B", chunk, microbatch))]
    return [node for _, _, node in sorted(nodes)]


class _Stage:
    """One stage that puts its work in order."""

    def __init__(self, stage: int, done: _Done, *, recomputes: bool) -> None:
        self._stage, self._done, self._recomputes = stage, done, recomputes
        self._rounds, self._next = _rounds(stage, done.num_stages, done.num_microbatches), 0
        self._put_off: deque[Node] = deque()
        self._entered = self._between = self._held = 0
        """Forwards of the first chunk; what is forward and not backward; the same without its weights' gradients."""

    def work(self, clock: int) -> Node | None:
        """Do the piece of work whose turn it is, if there is one that can start."""
        node = self._choose(clock)
        if node is None:
            return None
        if node.kind == "W":
            self._held -= 1
            return node
        self._done.add(node.kind, self._slot(node.chunk), node.microbatch, clock + 1)
        step = 1 if node.kind == "F" else -1
        self._between += step
        self._held += max(step, 0)
        if node.kind == "B":
            self._put_off.append(Node("W", node.chunk, node.microbatch))
        elif node.chunk == 0:
            self._entered += 1
        return node

    def _choose(self, clock: int) -> Node | None:
        """What the stage does now: its next forward or backward, or what it may do while it waits for that."""
        if self._recomputes and self._put_off:
            return self._put_off.popleft()
        self._next = self._after_entered(self._next)
        node = self._rounds[self._next] if self._next < len(self._rounds) else None
        is_ready = node is not None and self._is_ready(node, clock)
        is_full = self._held == most_held(self._done.num_stages)
        if node is not None and is_ready and not (node.kind == "F" and is_full):
            self._next += 1
            return node
        if self._put_off:
            return self._put_off.popleft()
        early = Node("F", 0, self._entered)
        may_enter = node is not None and not is_ready and not is_full and self._entered < self._done.num_microbatches
        return early if may_enter and self._is_ready(early, clock) and self._has_room(early) else None

    def _has_room(self, early: Node) -> bool:
        """Whether a forward fits now and until it would have its turn."""
        at, held, most = self._next, self._between + 1, most_held(self._done.num_stages)
        while held <= most and self._rounds[at] != early:
            held += 1 if self._rounds[at].kind == "F" else -1
            at = self._after_entered(at + 1)
        return held <= most

    def _after_entered(self, at: int) -> int:
        """The next place in the rounds whose work was not done early."""
        while at < len(self._rounds) and self._rounds[at][:2] == ("F", 0) and self._rounds[at][2] < self._entered:
            at += 1
        return at

    def _slot(self, chunk: int) -> int:
        return slot_of(self._stage, chunk, self._done.num_stages)

    def _is_ready(self, node: Node, clock: int) -> bool:
        return self._done.is_ready(node.kind, self._slot(node.chunk), node.microbatch, clock)
