"""The order of the zero-bubble V schedule, and its time without the rounds in between."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cost_model.zero_bubble import DRAIN, MOST_PLAYED, WINDOW, Pieces, stage_ends
from planner.layouts.zero_bubble import (
    CHUNKS,
    LEAST_STEADY,
    Node,
    held_at_backward,
    most_held,
    node_order,
    node_sequence,
    put_in_order,
    slot_of,
)

STAGES, MICRO_BATCHES = st.integers(1, 9), st.integers(1, 40)
TIMES = st.one_of(st.sampled_from([1.0, 2.0]), st.floats(0.1, 10.0))
Place = tuple[str, int, int]
"""Kind, slot and micro batch."""


def placed(order: Sequence[Node], stage: int, num_stages: int) -> list[Place]:
    return [(node.kind, slot_of(stage, node.chunk, num_stages), node.microbatch) for node in order]


def dependencies(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> nx.DiGraph:
    """Each piece of work waits for the one before it on its stage, and for its input: over an edge that is sent."""
    graph, last = nx.DiGraph(), CHUNKS * num_stages - 1
    for stage, order in enumerate(node_order(num_stages, num_microbatches, recomputes=recomputes)):
        graph.add_edges_from(pairwise(placed(order, stage, num_stages)), sent=False)
        graph.add_nodes_from(placed(order, stage, num_stages))
    for microbatch in range(num_microbatches):
        for slot in range(last + 1):
            forward, backward, weight = ((kind, slot, microbatch) for kind in "FBW")
            graph.add_edge(backward, weight, sent=False)
            if slot == last:
                graph.add_edge(forward, backward, sent=False)
                continue
            sent = slot != num_stages - 1
            for before, after in ((forward, ("F", slot + 1, microbatch)), (("B", slot + 1, microbatch), backward)):
                if not graph.has_edge(before, after):
                    graph.add_edge(before, after, sent=sent)
    return graph


def played(
    num_stages: int,
    num_microbatches: int,
    times: Mapping[str, Sequence[Sequence[float]]],
    message_s: float,
    *,
    recomputes: bool = False,
) -> list[float]:
    """When each stage has done its last piece of work; ``times`` by kind, stage and chunk."""
    graph, end = dependencies(num_stages, num_microbatches, recomputes=recomputes), dict[Place, float]()
    for node in nx.topological_sort(graph):
        kind, slot, _ = node
        stage, chunk = (slot, 0) if slot < num_stages else (CHUNKS * num_stages - 1 - slot, 1)
        ready = (end[before] + message_s * graph.edges[before, node]["sent"] for before in graph.predecessors(node))
        end[node] = max(ready, default=0.0) + times[kind][stage][chunk]
    orders = node_order(num_stages, num_microbatches, recomputes=recomputes)
    return [end[placed(order, stage, num_stages)[-1]] for stage, order in enumerate(orders)]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(STAGES, MICRO_BATCHES, st.booleans())
def test_every_stage_does_all_of_its_work_once_and_in_turn(
    num_stages: int, num_microbatches: int, recomputes: bool
) -> None:
    for order in node_order(num_stages, num_microbatches, recomputes=recomputes):
        place = {node: at for at, node in enumerate(order)}
        assert len(place) == len(order) == 3 * CHUNKS * num_microbatches
        for kind in ("F", "B", "W"):
            for chunk in range(CHUNKS):
                of_kind = [node.microbatch for node in order if (node.kind, node.chunk) == (kind, chunk)]
                assert of_kind == list(range(num_microbatches))
        for node in order:
            if node.kind == "F":
                backward, weight = node._replace(kind="B"), node._replace(kind="W")
                assert place[node] < place[backward] < place[weight]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(STAGES, MICRO_BATCHES, st.booleans())
def test_no_stage_waits_for_what_waits_for_it(num_stages: int, num_microbatches: int, recomputes: bool) -> None:
    assert nx.is_directed_acyclic_graph(dependencies(num_stages, num_microbatches, recomputes=recomputes))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(STAGES, st.integers(1, 5))
def test_stages_that_recompute_hold_what_is_told_of_them(num_stages: int, times: int) -> None:
    count = times * num_stages
    for stage, order in enumerate(node_order(num_stages, count, recomputes=True)):
        here, stages, microbatches = (np.array(number) for number in (stage, num_stages, count))
        told = [held_at_backward(here, chunk, stages, microbatches) for chunk in range(CHUNKS)]
        most = [(int(first), int(second)) for first, second in told]
        held, begun = [0, 0], {chunk: list[tuple[int, ...]]() for chunk in range(CHUNKS)}
        for node, after in zip(order, [*order[1:], None], strict=True):
            if node.kind == "B":
                begun[node.chunk].append(tuple(held))
                # Nothing is put off.
                assert after == node._replace(kind="W")
            held[node.chunk] += {"F": 1, "B": -1, "W": 0}[node.kind]
            # No more than when the second chunk begins, but for one of the first in place of one of the second.
            assert held[1] <= most[1][1]
            assert sum(held) <= sum(most[1])
        for chunk, found in begun.items():
            assert most[chunk] in found
            assert all(first <= most[chunk][0] and second <= most[chunk][1] for first, second in found)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(STAGES, MICRO_BATCHES)
def test_a_stage_never_holds_more_than_it_may(num_stages: int, num_microbatches: int) -> None:
    most = min(most_held(num_stages), CHUNKS * num_microbatches)
    for order in node_order(num_stages, num_microbatches):
        held = np.cumsum([{"F": 1, "B": 0, "W": -1}[node.kind] for node in order])
        assert held.min() == 0
        assert held.max() <= most
        # One micro batch's logits at a time: its backward comes before the next forward of that chunk.
        if order is node_order(num_stages, num_microbatches)[0]:
            at_head = [node.kind for node in order if node.chunk == 1 and node.kind != "W"]
            assert at_head == ["F", "B"] * num_microbatches


@settings(max_examples=60, deadline=None, derandomize=True)
@given(STAGES, st.integers(0, 30))
def test_nothing_waits_where_all_work_takes_as_long(num_stages: int, more: int) -> None:
    """But the first forward for its input: 6 pieces for each micro batch, and one for each stage before the last."""
    microbatches, ones = num_stages + more, [[1.0] * CHUNKS] * num_stages
    ends = played(num_stages, microbatches, dict.fromkeys(("F", "B", "W"), ones), 0.0)
    assert max(ends) == 6 * microbatches + num_stages - 1


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5, 8, 12])
def test_further_micro_batches_are_worked_on_like_those_in_the_middle(num_stages: int, recomputes: bool) -> None:
    least = LEAST_STEADY * num_stages
    for count in (least - 1, least, least + 1, least + 2, least + 3 * num_stages):
        found = node_sequence(num_stages, count, recomputes=recomputes)
        assert found == put_in_order(num_stages, count, recomputes=recomputes)


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 4, 5, 8, 12])
def test_micro_batches_that_time_is_told_from_repeat_each_other(num_stages: int, recomputes: bool) -> None:
    count, each = LEAST_STEADY * num_stages, 3 * CHUNKS
    told = set(range((LEAST_STEADY - DRAIN - WINDOW) * num_stages, count - DRAIN * num_stages))
    for order in node_order(num_stages, count, recomputes=recomputes):
        later = [node._replace(microbatch=node.microbatch + 1) for node in order]
        same = {at for at in range(len(order) - each) if order[at + each] == later[at]}
        places = {at for at, node in enumerate(order) if node.microbatch in told}
        assert places <= same | {at + each for at in same}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.data(),
    st.integers(2, 5),
    st.lists(st.integers(1, 60), min_size=3, max_size=3),
    st.floats(0.0, 0.5),
    st.booleans(),
)
def test_stage_ends_are_those_of_every_piece_played(
    data: st.DataObject, num_stages: int, counts: list[int], message_s: float, recomputes: bool
) -> None:
    """Also where micro batches in the middle are not played, and of several layouts at once."""
    shape = st.lists(st.lists(TIMES, min_size=2, max_size=2), min_size=num_stages, max_size=num_stages)
    layouts = [{kind: data.draw(shape) for kind in ("F", "B", "W")} for _ in range(2)]
    layouts.append({kind: [[1.0, 1.0]] * num_stages for kind in ("F", "B", "W")})
    forward, backward, weight = (np.array([one[kind] for one in layouts]) for kind in ("F", "B", "W"))
    messages = np.full(len(layouts), message_s)
    pieces = Pieces(forward_s=forward, backward_s=backward, weight_s=weight, message_s=messages)
    found = stage_ends(pieces, np.array(counts), recomputes=recomputes)
    for ends, times, count in zip(found, layouts, counts, strict=True):
        exact = played(num_stages, count, times, message_s, recomputes=recomputes)
        most = 1e-8 if count <= MOST_PLAYED * num_stages else 1e-2
        assert max(exact) * (1 - 1e-8) <= max(ends) <= max(exact) * (1 + most)


@pytest.mark.parametrize("more", [0.001, 0.01, 0.1, 1.0])
def test_stages_that_drift_apart_go_on_at_the_pace_of_the_slowest(more: float) -> None:
    num_stages, count = 4, 400
    forward = np.ones((1, num_stages, CHUNKS))
    forward[0, 0, 1] += more
    pieces = Pieces(forward_s=forward, backward_s=1.3 * forward, weight_s=0.8 * forward, message_s=np.full(1, 0.05))
    times = {"F": forward[0].tolist(), "B": (1.3 * forward[0]).tolist(), "W": (0.8 * forward[0]).tolist()}
    exact = max(played(num_stages, count, times, 0.05))
    assert exact * (1 - 1e-8) <= stage_ends(pieces, np.array([count])).max() <= exact * 1.0005
