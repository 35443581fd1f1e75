"""How far the gradients of all ranks are from those of one process, and from each other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.handover.verification import GradientDifference, ReplicaDifference, StepComparison, Tolerance, Verification
from runtime.states.families import FAMILIES
from runtime.verify.gradients import Gradients
from runtime.verify.reference import ReferenceStep

_HEAD = "lm_head.weight"
_KEY_BIAS = ".k_proj.bias"
_EMBEDDINGS = {family.embedding for family in FAMILIES.values()}


class RankSteps(NamedTuple):
    """What one rank saw: its pipeline stage, the loss of the whole batch and its gradients of each step."""

    stage: int
    losses: list[float]
    gradients: list[Gradients]
    rerouted: Sequence[Sequence[int]] = ()
    """Of each step: tokens that its routers would have sent to other experts than one process, and all that they
    sent."""


def compare(expected: Sequence[ReferenceStep], ranks: Sequence[RankSteps], tolerance: Tolerance) -> Verification:
    """All ranks, in their order, beside one process."""
    names = set(expected[0].gradients)
    seen = {_known(name, names) for rank in ranks for name in rank.gradients[0]}
    steps = tuple(_step(number, wanted, ranks) for number, wanted in enumerate(expected))
    return Verification(
        tolerance=tolerance, steps=steps, num_parameters=len(names), missing=tuple(sorted(names - seen))
    )


def _known(name: str, names: set[str]) -> str:
    if name in names or name != _HEAD:
        return name
    # Where the weights are tied, the last stage knows them under the other name.
    return next(iter(_EMBEDDINGS & names), name)


def _step(number: int, expected: ReferenceStep, ranks: Sequence[RankSteps]) -> StepComparison:
    holders: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    for rank, of_rank in enumerate(ranks):
        for name, gradient in of_rank.gradients[number].items():
            holders.setdefault(_known(name, set(expected.gradients)), []).append((rank, gradient))
    loss = ranks[0].losses[number]
    gradients = [
        GradientDifference(
            value=relative(gradient, expected.gradients[name], _norm(name, expected.gradients)),
            parameter=name,
            rank=rank,
            stage=ranks[rank].stage,
        )
        for name, held in holders.items()
        for rank, gradient in held
    ]
    replicas = [
        ReplicaDifference(value=relative(gradient, held[0][1]), parameter=name, ranks=(held[0][0], rank))
        for name, held in holders.items()
        for rank, gradient in held[1:]
    ]
    return StepComparison(
        step=number + 1,
        loss=loss,
        reference_loss=expected.loss,
        loss_difference=_finite(abs(loss - expected.loss) / abs(expected.loss)),
        gradient=max(gradients, key=_size),
        replicas=max(replicas, key=_size, default=None),
        routing=_routing([rank.rerouted[number] for rank in ranks if rank.rerouted]),
    )


def _routing(counts: Sequence[Sequence[int]]) -> float | None:
    sent = sum(of_rank[1] for of_rank in counts)
    return sum(of_rank[0] for of_rank in counts) / sent if sent else None


def _norm(name: str, right: Gradients) -> float:
    """The norm by which a difference is measured: that of the right gradient.

    A bias of keys moves all scores of a query nearly alike, which softmax undoes: its gradient is what is left of
    terms that cancel, and smaller than their rounding. It is measured by those of queries, keys and values together,
    which GPT-2 has in one.
    """
    names = [name]
    if name.endswith(_KEY_BIAS):
        names = [name.replace(_KEY_BIAS, f".{part}_proj.bias") for part in "qkv"]
    return math.hypot(*(float(np.linalg.norm(right[one])) for one in names))


def relative(found: NDArray[np.float32], wanted: NDArray[np.float32], norm: float | None = None) -> float | None:
    """Norm of the difference over ``norm``, by default that of ``wanted``; ``None`` if it is no number.

    ``wanted`` has no padding rows.
    """
    padding = len(found) - len(wanted)
    if padding > 0:
        wanted = np.pad(wanted, ((0, padding), (0, 0)))
    difference = float(np.linalg.norm(found - wanted))
    norm = float(np.linalg.norm(wanted)) if norm is None else norm
    if norm == 0:
        return 0.0 if difference == 0 else None
    return _finite(difference / norm)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _size(difference: GradientDifference | ReplicaDifference) -> float:
    return math.inf if difference.value is None else difference.value
