"""The steps of a run: their losses and times, and which of them updated the weights."""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from planner.jobs.faults import Fault
from runtime.states.loss_scale import MIXINS

WARM_UP_STEPS = 3
"""Steps left out of the median: the first ones allocate memory and open connections."""

LEAST_LINES = 10
"""Of a run with as many steps."""


class Step(NamedTuple):
    """One step of training."""

    loss: float
    seconds: float
    updated: bool = True
    """Whether the optimizer ran: gradients that overflow in fp16 lower the scale of the loss instead."""
    fault: Fault | None = None
    """What was wrong with its loss."""
    gradient_norm: float | None = None
    """Before it was clipped; ``None`` where nothing clips it, or nothing was updated."""
    is_whole: bool = True
    """Whether its batch was the plan's: while the batch of a job grows, it is a smaller one."""


def line_every(every_steps: int, steps: int) -> int:
    """How many of ``steps`` there are from one line to the next, where a job asks for ``every_steps``."""
    return min(every_steps, max(1, steps // LEAST_LINES))


def has_updated(optimizer: Any) -> bool:
    """Whether the last call of ``optimizer.step`` changed the weights; only fp16 can leave them as they are."""
    found = (getattr(getattr(optimizer, name, None), "found_overflow", None) for name in MIXINS)
    return not any(overflow is not None and overflow.item() > 0 for overflow in found)


def median_step_s(steps: Sequence[Step]) -> float | None:
    """Median time of the steps of the whole batch that updated the weights, after the first three if there are more.

    ``None`` where none of them did: what they took is no time of a step.
    """
    times = [step.seconds for step in steps[WARM_UP_STEPS:] or steps if step.updated and step.is_whole]
    return statistics.median(times) if times else None


def skipped_updates(steps: Sequence[Step]) -> int:
    """How many steps left the weights as they were."""
    return sum(not step.updated for step in steps)
