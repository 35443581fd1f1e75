"""Whether the batch of a job can grow under a plan: every batch has to fill whole micro batches, as its rules ask."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from planner.diagnostics import Diagnostic
from planner.jobs.batches import batches_of, has_ramp
from planner.jobs.job import Job
from planner.layouts.degrees import divisors
from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.rules import violations

_KEYS = ("ramp_start", "ramp_increment", "ramp_samples")


class Takes(NamedTuple):
    """Which global batches a layout takes: ``least``, and from there on in steps of ``by``."""

    least: int
    by: int

    def fits(self, start: int, increment: int) -> bool:
        """Whether it takes a batch of ``start`` that grows by ``increment``."""
        return start >= self.least and (start - self.least) % self.by == 0 and increment % self.by == 0


def takes(problem: Problem, layout: Layout) -> Takes:
    """The batches that a layout of ``problem`` takes when only the number of its micro batches changes.

    How that number has to divide is what the rules say of it: a pipeline takes no fewer micro batches than it has
    stages, an interleaved one takes multiples of them.
    """
    unit = layout.micro_batch * layout.data_parallel
    counts = range(1, layout.num_microbatches)
    fitting = [*islice((count for count in counts if _holds(problem, layout, count)), 2), layout.num_microbatches]
    first, second = fitting[0], fitting[min(1, len(fitting) - 1)]
    return Takes(first * unit, max(second - first, 1) * unit)


def _holds(problem: Problem, layout: Layout, count: int) -> bool:
    """Whether the layout keeps every rule with ``count`` micro batches, but for what was asked of the plan's own."""
    smaller = msgspec.structs.replace(layout, num_microbatches=count)
    asked = msgspec.structs.replace(problem, global_batch=smaller.global_batch, pins={}, forbids={})
    return not violations(asked, smaller)


def of_ramp(job: Job, problem: Problem, layout: Layout, done: int = 0) -> Iterator[Diagnostic]:
    """Findings about a batch that is to grow after so many steps are ``done``, each with what would do."""
    ramp, whole = job.schedule, problem.global_batch
    missing = [key for key in _KEYS if not getattr(ramp, key)]
    if len(missing) == len(_KEYS):
        return
    if not has_ramp(ramp):
        message = f"a batch that grows needs {', '.join(_KEYS)}, and {' and '.join(missing)} is 0"
        yield _finding(message, missing[0], _example(whole, takes(problem, layout)))
    elif ramp.ramp_start >= whole:
        message = f"the batch cannot grow from {ramp.ramp_start} to the plan's {whole}"
        yield _finding(message, "ramp_start", _example(whole, takes(problem, layout)))
    elif (whole - ramp.ramp_start) % ramp.ramp_increment:
        message = f"steps of {ramp.ramp_increment} do not lead from {ramp.ramp_start} to the plan's batch of {whole}"
        yield _finding(message, "ramp_increment", _increments(whole, ramp.ramp_start, takes(problem, layout)))
    elif batches_of(job, problem).batch(done) == whole:
        return  # what is left of the run has one batch
    elif not (found := takes(problem, layout)).fits(ramp.ramp_start, ramp.ramp_increment):
        message = (
            f"the layout takes batches from {found.least} on in steps of {found.by}, not from {ramp.ramp_start} "
            f"in steps of {ramp.ramp_increment}: they are made of {layout.data_parallel} data-parallel ranks x "
            f"micro batches of {layout.micro_batch}, for {layout.pipeline_parallel} pipeline stages"
        )
        yield _finding(message, "ramp_start", _example(whole, found))


def _increments(whole: int, start: int, found: Takes) -> str:
    """Which increments would do from ``start`` on, or which start would."""
    fitting = [one for one in divisors(whole - start) if found.fits(start, one)]
    return f"use {', '.join(map(str, fitting[:8]))}" if fitting else _example(whole, found)


def _example(whole: int, found: Takes) -> str:
    if found.least >= whole:
        return "use `schedule.ramp_start = 0`, or solve for smaller micro batches with `--pin micro_batch=1`"
    return f"for example `schedule.ramp_start = {found.least}` and `schedule.ramp_increment = {found.by}`"


def _finding(message: str, key: str, hint: str) -> Diagnostic:
    return Diagnostic(rule="USAGE", message=message, location=f"schedule.{key}", hint=hint)
