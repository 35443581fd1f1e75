"""Time of the zero-bubble V schedule: the longest path through the order in which its stages work.

The order is that of :func:`planner.layouts.zero_bubble.node_sequence`, which the runtime follows too. Many layouts with
as many stages and micro batches are played at once.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.cost_model import communication, compute, update
from planner.cost_model.expert_shares import expert_layers
from planner.cost_model.expert_time import expert_weight_gradient_seconds
from planner.cost_model.passes import STEADY, end_passes, pass_times
from planner.cost_model.pipeline import StageTimes, stage_times
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, Integers, StageColumns
from planner.layouts.zero_bubble import CHUNKS, LEAST_STEADY, node_sequence, slot_of

MOST_PLAYED = 12
"""Micro batches that are played, in multiples of the stages, where they do not become steady before.

With a head that takes 0.1 to 100 % more than the other work of a stage, steps of 100 times as many micro batches as
stages come out at most 0.05 % too long.
"""
MOST_TIMES = 4_000_000
"""Times of pieces that are kept at once."""
DRAIN, WINDOW = 2, 2
"""Multiples of the stages: micro batches that are left out at the end, and those before that have to be steady.

As many as a stage holds at once, so that nothing reaches back further.
"""


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """Times of the pieces of work of one micro batch, by layout, stage and chunk, in seconds."""

    forward_s: Floats
    backward_s: Floats
    """Without the weight gradients that are put off."""
    weight_s: Floats
    message_s: Floats
    """By layout: one hidden state or gradient to a neighbour, after which that can start."""

    def take(self, rows: Integers) -> "Pieces":
        """The pieces of some of the layouts."""
        return Pieces(**{name: column[rows] for name, column in vars(self).items()})

    @property
    def of_kinds(self) -> dict[str, Floats]:
        """The times by the names of nodes."""
        return {"F": self.forward_s, "B": self.backward_s, "W": self.weight_s}


@formula("qi2023", "colossalai0.5.0")
def piece_times(problem: Problem, stages: StageColumns, times: StageTimes) -> Pieces:
    """Forward, backward and weight gradients of both chunks of each stage, for layouts with as many stages.

    All of them add up to the stage's time of a micro batch. The chunks halve it, but for what the embedding computes,
    which is the first chunk's of the first stage, and the head, the second's there. Put off are the weight gradients
    of the products in layers, which add them to those that there are (runtime/patches/weight_gradients.py); the head's
    are part of its backward.
    """
    passes, (embedding, head) = pass_times(problem, stages, times), end_passes(problem, stages)
    backward_ends = embedding.backward + head.backward
    put_off = stages.num_layers * compute.weight_gradient_seconds(problem, stages)
    of_experts = expert_weight_gradient_seconds(problem, stages) * compute.product_slowdown(problem, stages)
    put_off = put_off + expert_layers(problem, stages) * of_experts
    put_off = put_off + update.put_off_addition_seconds(problem, stages)
    put_off = np.minimum(put_off, np.maximum(passes.backward_s - backward_ends, 0.0))
    forward = (passes.forward_s - embedding.forward - head.forward) / CHUNKS
    backward = (passes.backward_s - put_off - backward_ends) / CHUNKS
    num_stages = int(stages.layouts.pipeline_parallel[0])

    def of_stages(*chunks: Floats) -> Floats:
        return np.stack(chunks, axis=-1).reshape(-1, num_stages, CHUNKS)

    return Pieces(
        forward_s=of_stages(forward + embedding.forward, forward + head.forward),
        backward_s=of_stages(backward + embedding.backward, backward + head.backward),
        weight_s=of_stages(put_off / CHUNKS, put_off / CHUNKS),
        message_s=communication.message_seconds(problem, stages).reshape(-1, num_stages).max(axis=1),
    )


@formula("qi2024", "definition")
def v_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """When the last stage of each layout has done its last piece of work, for the stages of whole layouts.

    NaN for layouts under other schedules. Units: s.
    """
    starts = stages.first_rows()
    columns = stages.layouts.take(starts)
    seconds, in_v = np.full(len(starts), np.nan), columns.schedule_is("zbv")
    for num_stages in np.unique(columns.pipeline_parallel[in_v]).tolist():
        chosen = in_v & (columns.pipeline_parallel == num_stages)
        own = stages.take(stages.spread(chosen))
        pieces = piece_times(problem, own, stage_times(problem, own))
        seconds[chosen] = stage_ends(pieces, columns.num_microbatches[chosen]).max(axis=1)
    return seconds


def stage_ends(pieces: Pieces, num_microbatches: Integers) -> Floats:
    """When each stage of each layout has done its last piece of work of a step, as (layouts, stages).

    Exact where the micro batches that a stage can hold at once all came the same time after the ones before: those
    that follow in the same order do so too, because every piece of work is the latest of earlier ones plus a
    constant. So these are not played. Where stages still drift apart after :data:`MOST_PLAYED`, all go on at the pace
    of the slowest, which is no sooner than they would: by at most what the slowest and the fastest differ in. Units: s.
    """
    num_layouts, num_stages = pieces.forward_s.shape[:2]
    ends, played = np.zeros((num_layouts, num_stages)), np.minimum(num_microbatches, LEAST_STEADY * num_stages)
    left = np.ones(num_layouts, dtype=bool)
    while left.any():
        count = int(played[left].min())
        rows = np.flatnonzero(left & (played == count))[: max(MOST_TIMES // (2 * CHUNKS * num_stages * count), 1)]
        clocks, done = _play(pieces.take(rows), count)
        advance, steady = _advance(done, num_stages)
        more = num_microbatches[rows] - count
        ends[rows] = clocks + np.where(more > 0, advance * more, 0.0)[:, None]
        left[rows[steady | (more == 0) | (count >= MOST_PLAYED * num_stages)]] = False
        played[rows] = np.minimum(num_microbatches[rows], MOST_PLAYED * num_stages)
    return ends


def _advance(done: Floats, num_stages: int) -> tuple[Floats, Booleans]:
    """What a micro batch takes more than the one before, by layout, and where that is the same for all in a window."""
    if done.shape[1] < LEAST_STEADY * num_stages:
        return np.zeros(done.shape[2]), np.zeros(done.shape[2], dtype=bool)
    stop = done.shape[1] - DRAIN * num_stages
    steps = np.diff(done[:, stop - WINDOW * num_stages - 1 : stop], axis=1)
    low, high = steps.min(axis=(0, 1)), steps.max(axis=(0, 1))
    return high, high - low <= STEADY * np.maximum(high, 1e-30)


class _Place(NamedTuple):
    """What a kind of work on a chunk of a stage waits for."""

    own: int
    """Row of the table of forwards and backwards where its end goes; -1 for weight gradients, which none waits for."""
    before: int
    """Row of what it waits for; -1 where that is nothing, or work before it on the same stage."""
    is_sent: bool


def _places(num_stages: int) -> Iterator[tuple[tuple[int, str, int], _Place]]:
    """By stage, kind and chunk: forwards by slot, then backwards from the last slot on, each after the row before."""
    slots = CHUNKS * num_stages
    turns = (num_stages, slots, slots + num_stages)
    for stage, chunk in itertools.product(range(num_stages), range(CHUNKS)):
        slot = slot_of(stage, chunk, num_stages)
        for kind, own in (("F", slot), ("B", 2 * slots - 1 - slot)):
            yield (stage, kind, chunk), _Place(own, own - 1, own not in turns)
        yield (stage, "W", chunk), _Place(-1, -1, is_sent=False)


def _play(pieces: Pieces, num_microbatches: int) -> tuple[Floats, NDArray[np.float64]]:
    """Run every piece of work as soon as its input is there and the work before it on its stage is done.

    Returns when stages are done, as (layouts, stages), and when each forward and backward was, as (row, micro batch,
    layouts).
    """
    num_layouts, num_stages = pieces.forward_s.shape[:2]
    of_kinds = {kind: np.ascontiguousarray(np.moveaxis(of_kind, 0, -1)) for kind, of_kind in pieces.of_kinds.items()}
    done = np.zeros((2 * CHUNKS * num_stages, num_microbatches, num_layouts))
    clocks = np.zeros((num_stages, num_layouts))
    places = dict(_places(num_stages))
    for stage, (kind, chunk, microbatch) in node_sequence(num_stages, num_microbatches):
        clock, (own, before, is_sent) = clocks[stage], places[stage, kind, chunk]
        if before >= 0:
            ready = done[before, microbatch]
            np.maximum(clock, ready + pieces.message_s if is_sent else ready, out=clock)
        clock += of_kinds[kind][stage, chunk]
        if own >= 0:
            done[own, microbatch] = clock
    return clocks.T, done
