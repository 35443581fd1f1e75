"""How many sequences each step takes: as many as the plan says, or fewer at first, as the job's ramp says.

The batch of a step, and which of the job's samples it is made of, are functions of the step's number alone: a run that
resumes needs nothing else, and every layout sees the same batches.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from planner.jobs.job import Job, ScheduleSection
from planner.layouts.problem import Problem


class Level(NamedTuple):
    """Steps in a row with the same batch."""

    first_step: int
    """Counted from 0."""
    first_sample: int
    """Of the job's samples, counted from 0."""
    batch: int
    """Sequences of each step."""


class BatchSchedule:
    """The global batch of every step."""

    def __init__(self, levels: Sequence[Level], steps: int) -> None:
        """A run of ``steps`` through ``levels``, of which the first begins at step 0 and the last never ends."""
        self._levels = levels
        self._first_steps = [level.first_step for level in levels]
        self.steps = steps
        """Of the whole run."""

    def _level(self, step: int) -> Level:
        return self._levels[bisect_right(self._first_steps, step) - 1]

    @property
    def levels(self) -> Sequence[Level]:
        """Those that the run comes to, in their order."""
        return [level for level in self._levels if level.first_step < self.steps]

    @property
    def whole(self) -> int:
        """The batch that every step has once the ramp is over: the plan's."""
        return self._levels[-1].batch

    @property
    def samples(self) -> int:
        """Sequences of the whole run, repetitions included."""
        return self.consumed(self.steps)

    def batch(self, step: int) -> int:
        """Sequences of a step, counted from 0."""
        return self._level(step).batch

    def consumed(self, step: int) -> int:
        """Sequences of all steps before ``step``, counted from 0: its batch begins with the sample of that number."""
        level = self._level(step)
        return level.first_sample + (step - level.first_step) * level.batch


def constant_batches(batch: int, steps: int = 1) -> BatchSchedule:
    """The same batch for every step."""
    return BatchSchedule([Level(0, 0, batch)], steps)


def batches_of(job: Job, problem: Problem) -> BatchSchedule:
    """The batches of a job under any plan of ``problem``.

    It has the steps of the job, or as many as its tokens take.
    """
    levels, plan = _levels(job.schedule, problem.global_batch), job.schedule
    if plan.tokens is None:
        return BatchSchedule(levels, plan.steps)
    samples = -(-plan.tokens // problem.seq_len)
    last = [level for level in levels if level.first_sample < samples][-1]
    return BatchSchedule(levels, last.first_step + -(-(samples - last.first_sample) // last.batch))


def _levels(ramp: ScheduleSection, global_batch: int) -> list[Level]:
    """Equally wide parts of the ramp's samples, in the k-th of which, from 0, a batch is start + k x increment.

    So Megatron-LM's ``--rampup-batch-size`` has it (d98e8a6: core/num_microbatches_calculator.py). A batch that has
    begun in one part is not cut at its end.
    """
    if not has_ramp(ramp):
        return [Level(0, 0, global_batch)]
    increments = max((global_batch - ramp.ramp_start) // ramp.ramp_increment, 0)
    levels: list[Level] = []
    step = sample = 0
    while True:
        number = min(sample * increments // ramp.ramp_samples, increments)
        batch = ramp.ramp_start + number * ramp.ramp_increment
        levels.append(Level(step, sample, batch))
        if number == increments:
            return levels
        end = -(-(number + 1) * ramp.ramp_samples // increments)
        count = -(-(end - sample) // batch)
        step, sample = step + count, sample + count * batch


def has_ramp(schedule: ScheduleSection) -> bool:
    """Whether the batch grows; a ramp that lacks one of its three numbers is none, and refused elsewhere."""
    return min(schedule.ramp_start, schedule.ramp_increment, schedule.ramp_samples) > 0
