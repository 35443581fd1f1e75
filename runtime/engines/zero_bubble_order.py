"""The planner's order of work under a zero-bubble V schedule, with what stages send each other.

Stages have to agree on the order of their messages: NCCL runs those of a rank one after the other, so that two stages
which begin with different ones would wait for each other forever. It is that in which the messages would be ready if
each piece of work took the same time, as the planner has it when it puts work in order.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from planner.layouts.zero_bubble import CHUNKS, Node, node_sequence, slot_of, stage_of


class Action(NamedTuple):
    """What a stage does: a node of Colossal-AI's schedule, with its names (pipeline/schedule/v_schedule.py:36-44)."""

    type: str
    """``F``, ``B`` or ``W``, or ``SEND`` or ``RECV`` and ``_FORWARD`` or ``_BACKWARD``."""
    chunk: int
    """Of what is computed, is sent because it was, or is received to be."""
    stage: int
    minibatch: int
    """Which micro batch."""


Actions = tuple[Action, ...]
"""All that a stage does, one after the other."""


@functools.cache
def step_actions(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> tuple[Actions, ...]:
    """What each stage does in a training step, which recomputes or does not."""
    return _with_messages(node_sequence(num_stages, num_microbatches, recomputes=recomputes), num_stages)


@functools.cache
def forward_actions(num_stages: int, num_microbatches: int) -> tuple[Actions, ...]:
    """What each stage does in forward alone: in tick ``t`` micro batch ``t - k`` passes slot ``k``."""
    slots = CHUNKS * num_stages
    ticks = range(num_microbatches + slots - 1)
    passed = ((tick - slot, slot) for tick in ticks for slot in range(slots) if 0 <= tick - slot < num_microbatches)
    work = ((stage_of(slot, num_stages), Node("F", int(slot >= num_stages), number)) for number, slot in passed)
    return _with_messages(work, num_stages)


class _Place(NamedTuple):
    """A place on the way of micro batches forward through all slots and back."""

    time: int
    """When it is ready; what is ready together has the order of its places."""
    number: int
    microbatch: int


def _with_messages(work: Iterable[tuple[int, Node]], num_stages: int) -> tuple[Actions, ...]:
    """The work of each stage with its messages: each is sent, and awaited, when it is ready, before other work begins.

    ``work`` is that of all stages, each piece with its stage and after what it waits for.
    """
    timed: list[list[tuple[int, int, _Place, Action]]] = [[] for _ in range(num_stages)]
    for stage, node, start in _timed(work, num_stages):
        computed = _Place(start, 0, node.microbatch)
        timed[stage].append((start, 1, computed, Action(node.kind, node.chunk, stage, node.microbatch)))
        number = _number(node, stage, num_stages)
        if number is None or not (after := _after(number, num_stages)):
            continue
        name = "FORWARD" if node.kind == "F" else "BACKWARD"
        sent = _Place(start + 1, number, node.microbatch)
        ends = (Action(f"SEND_{name}", node.chunk, stage, node.microbatch), Action(f"RECV_{name}", *after, node[2]))
        for end in ends:
            timed[end.stage].append((sent.time, 0, sent, end))
    return tuple(tuple(action for *_, action in sorted(own, key=lambda one: one[:3])) for own in timed)


def _timed(work: Iterable[tuple[int, Node]], num_stages: int) -> Iterator[tuple[int, Node, int]]:
    """Each piece of work with its stage and when it begins, if each takes one unit of time."""
    ends: dict[tuple[int, int], int] = {}
    clocks = [0] * num_stages
    for stage, node in work:
        number = _number(node, stage, num_stages)
        start = max(clocks[stage], ends[number - 1, node.microbatch] if number else 0)
        clocks[stage] = start + 1
        if number is not None:
            ends[number, node.microbatch] = start + 1
        yield stage, node, start


def _number(node: Node, stage: int, num_stages: int) -> int | None:
    """Of a place on the way; ``None`` for gradients of weights, on which nobody waits."""
    slot = slot_of(stage, node.chunk, num_stages)
    return {"F": slot, "B": 2 * CHUNKS * num_stages - 1 - slot}.get(node.kind)


def _after(number: int, num_stages: int) -> tuple[int, int] | None:
    """Chunk and stage of the next place on the way; ``None`` where the way turns or ends, on the same stage."""
    slots = CHUNKS * num_stages
    here, there = (min(one, 2 * slots - 1 - one) for one in (number, number + 1))
    if there < 0 or stage_of(here, num_stages) == stage_of(there, num_stages):
        return None
    return int(there >= num_stages), stage_of(there, num_stages)
