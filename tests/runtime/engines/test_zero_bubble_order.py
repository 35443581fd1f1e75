"""The order that stages run is the planner's, and their messages go through however slow one of them is."""

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

from planner.layouts.zero_bubble import CHUNKS, node_order

SIZES = [(2, 2), (2, 6), (3, 3), (3, 12), (4, 4), (4, 8), (5, 10), (8, 32)]
"""Stages, micro batches."""


def computed(nodes: Sequence[Any]) -> list[tuple[str, int, int]]:
    return [(node.type, node.chunk, node.minibatch) for node in nodes if node.type in "FBW"]


def play(orders: Sequence[Sequence[Any]]) -> list[tuple[str, int, int, int]]:
    """All that is done, where a message needs both of its ends at once: as kind, stage, chunk and micro batch."""
    waiting = [deque(order) for order in orders]
    done: list[tuple[str, int, int, int]] = []
    while any(waiting):
        before = len(done)
        for stage, own in enumerate(waiting):
            while own and own[0].type in "FBW":
                node = own.popleft()
                done.append((node.type, stage, node.chunk, node.minibatch))
            other = own and own[0].type.startswith("SEND") and waiting[peer(own[0], len(orders))]
            if other and other[0].type == own[0].type.replace("SEND", "RECV"):
                for end, node in ((stage, own.popleft()), (other[0].stage, other.popleft())):
                    done.append((node.type, end, node.chunk, node.minibatch))
        assert len(done) > before, [list(own)[:1] for own in waiting]
    return done


def peer(node: Any, num_stages: int) -> int:
    """The stage to which a node sends: on the way down the next, on the way up the one before."""
    down = (node.chunk == 0) == node.type.endswith("FORWARD")
    return node.stage + (1 if down else -1)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize(("num_stages", "num_microbatches"), SIZES)
def test_stages_work_in_the_order_of_the_planner(num_stages: int, num_microbatches: int, *, recomputes: bool) -> None:
    from runtime.engines.zero_bubble_order import step_actions

    found = step_actions(num_stages, num_microbatches, recomputes=recomputes)
    wanted = node_order(num_stages, num_microbatches, recomputes=recomputes)
    assert [computed(nodes) for nodes in found] == [[tuple(node) for node in own] for own in wanted]


@pytest.mark.parametrize(("num_stages", "num_microbatches"), [*SIZES, (3, 1), (4, 5)])
@pytest.mark.parametrize("kind", ["step", "recomputing", "forward"])
def test_no_stage_waits_for_one_that_waits_for_it(kind: str, num_stages: int, num_microbatches: int) -> None:
    """Even where a message blocks both of its ends; and every message is there before it is needed."""
    from runtime.engines.zero_bubble_order import forward_actions, step_actions

    of_kind: dict[str, Any] = {
        "step": step_actions,
        "recomputing": partial(step_actions, recomputes=True),
        "forward": forward_actions,
    }
    orders = of_kind[kind](num_stages, num_microbatches)
    done = play(orders)
    at = {one: number for number, one in enumerate(done)}
    kinds = "F" if kind == "forward" else "FBW"
    assert len(at) == len(done)
    assert sum(one[0] in "FBW" for one in done) == len(kinds) * CHUNKS * num_stages * num_microbatches
    messages = {"F": "FORWARD", "B": "BACKWARD"}
    assert sum(one[0].startswith("SEND") for one in done) == (
        sum(one in messages for one in kinds) * CHUNKS * (num_stages - 1) * num_microbatches
    )
    for name, stage, chunk, microbatch in done:
        if name.startswith("RECV"):
            work = name.removeprefix("RECV_")[0]
            assert at[name, stage, chunk, microbatch] < at[work, stage, chunk, microbatch]
        if name.startswith("SEND"):
            work = name.removeprefix("SEND_")[0]
            assert at[work, stage, chunk, microbatch] < at[name, stage, chunk, microbatch]
