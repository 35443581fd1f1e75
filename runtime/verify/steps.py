"""Training steps of a layout beside the same steps of one process."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from torch.optim import SGD, AdamW

from planner.handover.verification import TOLERANCES, Verification, Workaround
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from runtime.engines.choice import make_engine
from runtime.exchange import at_first, bytes_at_first
from runtime.verify.differences import RankSteps, compare
from runtime.verify.gradients import Gradients, watch_gradients
from runtime.verify.reference import counting_batches, reference_steps
from runtime.verify.routing import everyone_learns, follow
from runtime.verify.workarounds import switch_off

SGD_RATE = 0.2
"""At which rounding stays rounding, and an update that is a tenth too small still shows: tests/runtime/verify has both.

At 0.5 a right layout in bf16 may be further off in its third step than is allowed.
"""
ADAM_RATE = 3e-4
"""Adam turns the rounding of a gradient near zero into a whole step, which must not move the next gradients far."""


def verify(
    plan: Plan, *, steps: int, seed: int, nvme_folder: Path | None = None, without: Collection[Workaround] = ()
) -> Verification | None:
    """Train ``steps`` steps both ways; rank 0 learns what came out. Every rank of the process group calls it.

    Updates are gradient descent, which shows a gradient that is wrong by a factor; layouts whose
    states are offloaded or in chunks take AdamW, the only optimizer for them.

    Raises:
        PlanError: the runtime cannot execute the plan's layout.
    """
    layout = plan.layout
    takes_adam = layout.offload.tier != "none" or layout.zero_stage == SHARDS_WEIGHTS
    rate, optimizer = (ADAM_RATE, AdamW) if takes_adam else (SGD_RATE, SGD)
    batches = counting_batches(plan, steps, seed)
    expected = []
    if dist.get_rank() == 0:  # before a workaround is switched off, so that it stays right
        expected = list(reference_steps(plan, batches, seed=seed, learning_rate=rate, optimizer=optimizer))
    switch_off(without)
    engine = make_engine(
        plan, seed=seed, learning_rate=rate, nvme_folder=nvme_folder, optimizer=None if takes_adam else SGD
    )
    gradients = watch_gradients(engine)
    group = dist.new_group(backend="gloo")  # through host memory, whatever the layout communicates with
    picks = [] if plan.problem.model.experts is None else everyone_learns([step.picks for step in expected], group)
    rerouted = follow(engine, picks)
    losses = [engine.step({name: t[engine.rows] for name, t in batch.items()}) for batch in batches]
    ranks = _gather(RankSteps(engine.position.stage, losses, gradients, rerouted), group)
    return compare(expected, ranks, TOLERANCES[layout.precision]) if ranks else None


class _Head(NamedTuple):
    """What is told of a rank's steps before the gradients themselves."""

    stage: int
    losses: list[float]
    shapes: list[dict[str, tuple[int, ...]]]
    """Of the gradients of each step."""
    rerouted: Sequence[Sequence[int]]


def _gather(own: RankSteps, group: dist.ProcessGroup) -> list[RankSteps]:
    """What all ranks saw, on rank 0."""
    shapes = [{name: array.shape for name, array in step.items()} for step in own.gradients]
    heads = at_first(_Head(own.stage, own.losses, shapes, own.rerouted), _Head, group)
    contents = bytes_at_first(b"".join(array.tobytes() for step in own.gradients for array in step.values()), group)
    told = zip(heads, contents, strict=True)
    return [RankSteps(head.stage, head.losses, _arrays(head, data), head.rerouted) for head, data in told]


def _arrays(head: _Head, content: bytes) -> list[Gradients]:
    numbers, start = np.frombuffer(content, np.float32), 0
    found: list[Gradients] = []
    for step in head.shapes:
        found.append({})
        for name, shape in step.items():
            stop = start + math.prod(shape)
            found[-1][name] = numbers[start:stop].reshape(shape)
            start = stop
    return found
