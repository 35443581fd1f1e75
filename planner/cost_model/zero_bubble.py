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
from planner.cost_model.terms import total
from planner.cost_model.v_memory import recomputed_of_chunks
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Floats, Integers, StageColumns, once_per_stages
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
    are part of its backward, and so is what a chunk recomputes.
    """
    num_stages = int(stages.layouts.pipeline_parallel[0])
    return _of_stages(_chunk_times(problem, stages, times), num_stages)


def _of_stages(chunks: Pieces, num_stages: int) -> Pieces:
    """By layout and stage what is by stage alone, of layouts with as many stages."""
    kinds = (chunks.forward_s, chunks.backward_s, chunks.weight_s)
    forward, backward, weight = (column.reshape(-1, num_stages, CHUNKS) for column in kinds)
    message = chunks.message_s.reshape(-1, num_stages).max(axis=1)
    return Pieces(forward_s=forward, backward_s=backward, weight_s=weight, message_s=message)


def _chunk_times(problem: Problem, stages: StageColumns, times: StageTimes) -> Pieces:
    """The pieces by stage and chunk, and messages by stage."""
    plain, again = _once(problem, stages, times), recomputed_of_chunks(problem, stages)
    passes, (embedding, head) = pass_times(problem, *plain), end_passes(problem, stages)
    each = (total(times.microbatch) - total(plain[1].microbatch)) / np.maximum(stages.recompute_layers, 1)
    backward_ends = embedding.backward + head.backward
    put_off = stages.num_layers * compute.weight_gradient_seconds(problem, stages)
    of_experts = expert_weight_gradient_seconds(problem, stages) * compute.product_slowdown(problem, stages)
    put_off = put_off + expert_layers(problem, stages) * of_experts
    put_off = put_off + update.put_off_addition_seconds(problem, stages)
    put_off = np.minimum(put_off, np.maximum(passes.backward_s - backward_ends, 0.0))
    forward = (passes.forward_s - embedding.forward - head.forward) / CHUNKS
    backward = (passes.backward_s - put_off - backward_ends) / CHUNKS
    first, second = (backward + own * each for own in again)
    return Pieces(
        forward_s=np.stack([forward + embedding.forward, forward + head.forward], axis=-1),
        backward_s=np.stack([first + embedding.backward, second + head.backward], axis=-1),
        weight_s=np.stack([put_off / CHUNKS] * CHUNKS, axis=-1),
        message_s=communication.message_seconds(problem, stages),
    )


def _once(problem: Problem, stages: StageColumns, times: StageTimes) -> tuple[StageColumns, StageTimes]:
    """The stages as if they recomputed nothing, and their times then."""
    if not stages.recompute_layers.any():
        return stages, times
    plain = stages.with_recompute(np.zeros_like(stages.recompute_layers))
    return plain, stage_times(problem, plain)


@formula("qi2024", "definition")
def v_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """When the last stage of each layout has done its last piece of work, for the stages of whole layouts.

    NaN for layouts under other schedules. Units: s.
    """
    return np.asarray(np.maximum.reduceat(v_ends(problem, stages), stages.first_rows()))


@formula("qi2024", "definition")
@once_per_stages
def v_ends(problem: Problem, stages: StageColumns) -> Floats:
    """The same for each stage: see :func:`stage_ends`."""
    starts = stages.first_rows()
    ends, in_v = np.full(len(stages), np.nan), stages.layouts.schedule_is("zbv")[starts]
    for rows, pieces, counts in _by_stages(problem, stages, in_v):
        recomputing = stages.recomputes_in_v[starts[rows]]
        of_stages = starts[rows][:, None] + np.arange(pieces.forward_s.shape[1])
        for recomputes in np.unique(recomputing).tolist():
            own = np.flatnonzero(recomputing == recomputes)
            ends[of_stages[own]] = stage_ends(pieces.take(own), counts[own], recomputes=recomputes)
    return ends


def _by_stages(problem: Problem, stages: StageColumns, chosen: Booleans) -> Iterator[tuple[Integers, Pieces, Integers]]:
    """Of the chosen layouts those with as many stages at once: their rows, their pieces and their micro batches."""
    some, rows = stages.take(stages.spread(chosen)), np.flatnonzero(chosen)
    if not len(rows):
        return
    chunks, columns = _chunk_times(problem, some, stage_times(problem, some)), some.layouts.take(some.first_rows())
    for num_stages in np.unique(columns.pipeline_parallel).tolist():
        own = columns.pipeline_parallel == num_stages
        pieces = _of_stages(chunks.take(np.flatnonzero(some.spread(own))), num_stages)
        yield rows[own], pieces, columns.num_microbatches[own]


@formula("definition")
def least_v_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """What the schedule of each layout in a V that recomputes takes at least, for the stages of whole layouts.

    A stage begins when the first micro batch came down to it; all of its work is done but the weights' gradients of the
    last one when that goes on up to the first stage: ``sum (F + B + 2 messages)`` of the stages before, ``M t`` of its
    own pieces. NaN for layouts that recompute nothing or have other schedules. Units: s.
    """
    starts = stages.first_rows()
    seconds = np.full(len(starts), np.nan)
    for rows, pieces, counts in _by_stages(problem, stages, stages.recomputes_in_v[starts]):
        passed = pieces.forward_s[..., 0] + pieces.backward_s[..., 0] + 2.0 * pieces.message_s[:, None]
        before = np.cumsum(passed, axis=1) - passed
        work = (pieces.forward_s + pieces.backward_s + pieces.weight_s).sum(axis=2)
        last = pieces.weight_s[..., 0]
        seconds[rows] = (before + counts[:, None] * work - last + last[:, :1]).max(axis=1)
    return seconds


def stage_ends(pieces: Pieces, num_microbatches: Integers, *, recomputes: bool = False) -> Floats:
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
        clocks, done = _play(pieces.take(rows), count, recomputes=recomputes)
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


def _play(pieces: Pieces, num_microbatches: int, *, recomputes: bool) -> tuple[Floats, NDArray[np.float64]]:
    """Run every piece of work as soon as its input is there and the work before it on its stage is done.

    Returns when stages are done, as (layouts, stages), and when each forward and backward was, as (row, micro batch,
    layouts).
    """
    num_layouts, num_stages = pieces.forward_s.shape[:2]
    of_kinds = {kind: np.ascontiguousarray(np.moveaxis(of_kind, 0, -1)) for kind, of_kind in pieces.of_kinds.items()}
    done = np.zeros((2 * CHUNKS * num_stages, num_microbatches, num_layouts))
    clocks = np.zeros((num_stages, num_layouts))
    places, sequence = dict(_places(num_stages)), node_sequence(num_stages, num_microbatches, recomputes=recomputes)
    for stage, (kind, chunk, microbatch) in sequence:
        clock, (own, before, is_sent) = clocks[stage], places[stage, kind, chunk]
        if before >= 0:
            ready = done[before, microbatch]
            np.maximum(clock, ready + pieces.message_s if is_sent else ready, out=clock)
        clock += of_kinds[kind][stage, chunk]
        if own >= 0:
            done[own, microbatch] = clock
    return clocks.T, done
