"""The planner's order of work under a zero-bubble V schedule, as nodes of Colossal-AI with what stages send each other.

Stages have to agree on the order of their messages: NCCL runs those of a rank one after the other, so that two stages
which begin with different ones would wait for each other forever. It is that in which the messages would be ready if
each piece of work took the same time, which is what the planner puts work in order by.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from colossalai.pipeline.schedule.v_schedule import ScheduledNode

from planner.layouts.zero_bubble import CHUNKS, Node, node_order, slot_of, stage_of

Nodes = tuple[ScheduledNode, ...]
"""What a stage does, one after the other."""
_NAMES = {"F": "FORWARD", "B": "BACKWARD"}


@functools.cache
def step_nodes(num_stages: int, num_microbatches: int) -> tuple[Nodes, ...]:
    """What each stage does in a training step."""
    return with_messages(node_order(num_stages, num_microbatches))


@functools.cache
def forward_nodes(num_stages: int, num_microbatches: int) -> tuple[Nodes, ...]:
    """What each stage does in forward alone: in tick ``t`` micro batch ``t - k`` passes slot ``k``."""
    work: list[list[Node]] = [[] for _ in range(num_stages)]
    for tick in range(num_microbatches + CHUNKS * num_stages - 1):
        for slot in range(CHUNKS * num_stages):
            if 0 <= tick - slot < num_microbatches:
                work[stage_of(slot, num_stages)].append(Node("F", int(slot >= num_stages), tick - slot))
    return with_messages(work)


class _Message(NamedTuple):
    """What one stage sends another when a piece of work is done; messages of a time have this order on all stages."""

    time: int
    kind: str
    slot: int
    """That whose result it is."""
    microbatch: int


def with_messages(work: Sequence[Sequence[Node]]) -> tuple[Nodes, ...]:
    """The work of each stage with its messages: each is sent, and awaited, when it is ready, before other work begins.

    Raises:
        ValueError: some work waits for other work that comes after it.
    """
    num_stages = len(work)
    starts = _starts(work)
    last = CHUNKS * num_stages - 1
    timed: list[list[tuple[int, int, int, ScheduledNode]]] = [[] for _ in work]
    messages = []
    for (kind, slot, microbatch), start in starts.items():
        stage = stage_of(slot, num_stages)
        timed[stage].append((start, 1, 0, _node(kind, slot, num_stages, microbatch)))
        to = {"F": slot + 1, "B": slot - 1}.get(kind, slot)
        if 0 <= to <= last and stage_of(to, num_stages) != stage:
            messages.append(_Message(start + 1, kind, slot, microbatch))
    for number, (time, kind, slot, microbatch) in enumerate(sorted(messages)):
        to = slot + 1 if kind == "F" else slot - 1
        for name, end in (("SEND", slot), ("RECV", to)):
            node = _node(f"{name}_{_NAMES[kind]}", end, num_stages, microbatch)
            timed[node.stage].append((time, 0, number, node))
    return tuple(tuple(node for *_, node in sorted(own, key=lambda entry: entry[:3])) for own in timed)


def _starts(work: Sequence[Sequence[Node]]) -> dict[tuple[str, int, int], int]:
    """When each piece of work begins, by kind, slot and micro batch, if each takes one unit of time."""
    num_stages = len(work)
    last = CHUNKS * num_stages - 1
    found: dict[tuple[str, int, int], int] = {}
    done, clocks = [0] * num_stages, [0] * num_stages
    moved = True
    while moved:
        moved = False
        for stage, own in enumerate(work):
            while done[stage] < len(own):
                kind, chunk, microbatch = own[done[stage]]
                slot = slot_of(stage, chunk, num_stages)
                before = _before(kind, slot, last)
                if before is not None and (*before, microbatch) not in found:
                    break
                ready = 0 if before is None else found[*before, microbatch] + 1
                found[kind, slot, microbatch] = max(clocks[stage], ready)
                clocks[stage] = found[kind, slot, microbatch] + 1
                done[stage] += 1
                moved = True
    if done != [len(own) for own in work]:
        raise ValueError(f"work that waits for itself: stages stop after {done} pieces of {[len(own) for own in work]}")
    return found


def _before(kind: str, slot: int, last: int) -> tuple[str, int] | None:
    """Kind and slot of what has to be done before, for the same micro batch."""
    if kind == "W":
        return "B", slot
    if kind == "B":
        return ("F", slot) if slot == last else ("B", slot + 1)
    return ("F", slot - 1) if slot else None


def _node(kind: str, slot: int, num_stages: int, microbatch: int) -> ScheduledNode:
    return ScheduledNode(kind, int(slot >= num_stages), stage_of(slot, num_stages), microbatch)
