"""The learning rate of a step, as a function of its number alone: a resumed run needs nothing but that."""

import math
from collections.abc import Callable

from planner.jobs.batches import BatchSchedule
from planner.jobs.job import Job


def learning_rate_at(step: int, batches: BatchSchedule, job: Job) -> float:
    """The learning rate of a step.

    It rises linearly over the warm-up, reaching the highest in its last step, and then, with ``p`` from 0 to 1 over
    the sequences that are left::

        constant   1
        linear     1 - (1 - f) p
        cosine     f + (1 - f) (1 + cos(pi p)) / 2      (Loshchilov and Hutter 2017, equation 5, without restarts)
        wsd        1, and over the last share of steps as linear      (Hu et al. 2024, MiniCPM, section 4)

    times the highest, where ``f`` is the final share; with ``f`` it would go on after the last step.

    Args:
        step: counted from 0.
        batches: of the whole run. While they grow, a step goes as far along the path as it has sequences.
        job: has the rest.
    """
    plan, highest = job.schedule, job.optimizer.learning_rate
    if step < plan.warmup_steps:
        return highest * (step + 1) / plan.warmup_steps
    first = plan.warmup_steps
    if plan.kind == "wsd":
        first = max(first, batches.steps - math.ceil(plan.decay_share * batches.steps))
    before = batches.consumed(first)
    progress = min(max(batches.consumed(step) - before, 0) / max(batches.samples - before, 1), 1.0)
    return highest * _SHAPES[plan.kind](progress, plan.final_share)


def _linear(progress: float, final: float) -> float:
    return 1 - (1 - final) * progress


_SHAPES: dict[str, Callable[[float, float], float]] = {
    "constant": lambda progress, final: 1.0,
    "linear": _linear,
    "wsd": _linear,
    "cosine": lambda progress, final: final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2,
}
