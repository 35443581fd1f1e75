"""The pipeline schedule as a graph of forward and backward tasks, and its longest path.

The search takes the closed form of :mod:`planner.cost_model.pipeline`; this is the exact time of the one
layout that a plan holds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.cost_model import communication, zero_bubble
from planner.cost_model.passes import STEADY, PassTimes, pass_times
from planner.cost_model.pipeline import stage_times
from planner.cost_model.sources import formula
from planner.cost_model.terms import total
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns

FIRST_ROUNDS = 4
"""Micro batches that are played first, in multiples of the stages; doubled until the schedule is steady."""


@formula("narayanan2021", "colossalai0.5.0")
def schedule_step_seconds(problem: Problem, stages: StageColumns) -> float | None:
    """Step time of one layout: the longest path through its schedule and what follows on each stage.

    A stage's reduction of gradients and its update start when its own last backward is done; on the first
    and the last stage the tied embedding's gradient is reduced in between, when both are done. ``None`` for
    an interleaved schedule whose micro batches do not divide by the stages: its groups cannot rotate.
    Raises ``ValueError`` for the stages of several layouts. Units: s.
    """
    if len(np.unique(stages.layout_row)) != 1:
        raise ValueError("stages of exactly one layout are needed")
    times, columns = stage_times(problem, stages), stages.layouts
    count, chunks = int(columns.num_microbatches[0]), int(columns.num_model_chunks[0])
    if chunks > 1 and count % len(stages):
        return None
    in_v = bool(columns.schedule_is("zbv")[0])
    if in_v:
        ends = zero_bubble.v_ends(problem, stages)
    else:
        ends = np.array(stage_ends(pass_times(problem, stages, times), count, chunks))
    if len(ends) > 1 and not in_v:
        joined = max(ends[0], ends[-1]) + float(communication.tied_embedding_seconds(problem, stages)[0])
        ends[0] = ends[-1] = joined
    waits = float(communication.message_wait_seconds(problem, stages)[0])
    return float((ends + total(times.tail)).max()) + waits


def stage_ends(times: PassTimes, num_microbatches: int, num_chunks: int = 1) -> list[float]:
    """When each stage has done its last backward of a step, under 1F1B or, with chunks, interleaved.

    Exact: a schedule that advances by the same time on all stages from one round to the next goes on
    like that until forwards run out, because every task is the latest of earlier ones plus a constant. So
    the rounds in between are not played. A round is one micro batch, or as many as stages with chunks.
    Raises ``ValueError`` with chunks unless the micro batches divide by the stages. Units: s.
    """
    num_stages = len(times.forward_s)
    if num_stages == 1:
        return [num_microbatches * float(times.forward_s[0] + times.backward_s[0])]
    period = 1 if num_chunks == 1 else num_stages
    if num_microbatches % period:
        raise ValueError(f"{num_microbatches} micro batches do not divide by {num_stages} stages")
    played = min(num_microbatches, FIRST_ROUNDS * num_stages)
    while True:
        history = _play(times, played, num_chunks)
        left = num_microbatches - played
        if left == 0:
            return [ends[-1] for ends in history.backward_end_s]
        advance = _steady_advance(history, period * num_chunks)
        if advance is not None:
            return [ends[-1] + advance * (left // period) for ends in history.backward_end_s]
        played = min(num_microbatches, 2 * played)


class _History(NamedTuple):
    """When the tasks of a schedule ended, by stage, in the order in which each stage runs them."""

    forward_end_s: list[list[float]]
    backward_end_s: list[list[float]]
    warm_up: list[int]


def _steady_advance(history: _History, window: int) -> float | None:
    """What the last round before forwards run out took, if all of its tasks took the same time more."""
    advances = []
    for forward, backward, warm_up in zip(*history, strict=True):
        last = len(backward) - warm_up
        if last < 2 * window:
            return None
        advances += [forward[index] - forward[index - window] for index in range(len(forward) - window, len(forward))]
        advances += [backward[index] - backward[index - window] for index in range(last - window, last)]
    low, high = min(advances), max(advances)
    return high if high - low <= STEADY * max(high, 1e-30) else None


def _play(times: PassTimes, num_microbatches: int, num_chunks: int) -> _History:
    """Run every task as soon as its input is there and the task before it on its stage is done."""
    num_stages, virtual = len(times.forward_s), len(times.forward_s) * num_chunks
    places = _places(num_stages, num_microbatches, num_chunks)
    done: list[list[list[float]]] = [[[-1.0] * num_microbatches for _ in range(virtual)] for _ in range(2)]
    runners = [_Stage(stage, times, places, num_chunks) for stage in range(num_stages)]
    left = 2 * len(places) * num_stages
    while left:
        left -= sum(runner.run(done) for runner in runners)
    forward, backward = zip(*(runner.ends for runner in runners), strict=True)
    return _History(list(forward), list(backward), [runner.warm_up for runner in runners])


def _places(num_stages: int, num_microbatches: int, num_chunks: int) -> list[tuple[int, int]]:
    """Chunk and micro batch of each forward of a stage: groups of as many micro batches as stages, chunk by chunk."""
    if num_chunks == 1:
        return [(0, microbatch) for microbatch in range(num_microbatches)]
    groups = [range(first, first + num_stages) for first in range(0, num_microbatches, num_stages)]
    return [(chunk, microbatch) for group in groups for chunk in range(num_chunks) for microbatch in group]


def _warm_up(stage: int, num_stages: int, num_chunks: int, forwards: int) -> int:
    """Forwards before a stage's first backward."""
    behind = num_stages - stage - 1
    return min(forwards, behind if num_chunks == 1 else 2 * behind + (num_chunks - 1) * num_stages)


def _durations(times: PassTimes, stage: int, num_chunks: int) -> tuple[list[float], list[float]]:
    """Forward and backward of each chunk of a stage, with the sends that block it."""
    num_stages = len(times.forward_s)
    last = num_stages * num_chunks - 1
    virtual = [chunk * num_stages + stage for chunk in range(num_chunks)]
    send = float(times.send_s[stage])
    forward, backward = float(times.forward_s[stage]) / num_chunks, float(times.backward_s[stage]) / num_chunks
    return [forward + send * (one < last) for one in virtual], [backward + send * (one > 0) for one in virtual]


class _Stage:
    """One stage that works through its tasks."""

    def __init__(self, stage: int, times: PassTimes, places: Sequence[tuple[int, int]], chunks: int) -> None:
        num_stages, durations = len(times.forward_s), _durations(times, stage, chunks)
        self.warm_up = warm_up = _warm_up(stage, num_stages, chunks, len(places))
        self.ends: tuple[list[float], list[float]] = ([], [])
        self._last, self._clock, self._next = num_stages * chunks - 1, 0.0, 0
        forward = [(chunk * num_stages + stage, microbatch, durations[0][chunk]) for chunk, microbatch in places]
        turned = [(chunks - 1 - chunk, microbatch) for chunk, microbatch in places]
        backward = [(chunk * num_stages + stage, microbatch, durations[1][chunk]) for chunk, microbatch in turned]
        steady = len(forward) - warm_up
        tasks = [(0, *task) for task in forward[:warm_up]]
        for ahead, behind in zip(forward[warm_up:], backward[:steady], strict=True):
            tasks += [(0, *ahead), (1, *behind)]
        self._tasks = tasks + [(1, *task) for task in backward[steady:]]

    def run(self, done: list[list[list[float]]]) -> int:
        """Run what can run; how many tasks that was. ``done`` is the end of each task, -1 before."""
        forwards, backwards = done
        clock, first, last, tasks = self._clock, self._next, self._last, self._tasks
        at = first
        while at < len(tasks):
            kind, virtual, microbatch, duration = tasks[at]
            if kind:
                ready = (backwards[virtual + 1] if virtual < last else forwards[virtual])[microbatch]
            else:
                ready = forwards[virtual - 1][microbatch] if virtual else 0.0
            if ready < 0.0:
                break
            clock = (ready if ready > clock else clock) + duration
            done[kind][virtual][microbatch] = clock
            self.ends[kind].append(clock)
            at += 1
        self._clock, self._next = clock, at
        return at - first
