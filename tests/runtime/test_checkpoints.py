"""Checkpoints know no layout: what any layout saves, every other one goes on from."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from tests.runtime.saving import batch_of, go_on, make, save
from tests.runtime.training import SEED

pytestmark = pytest.mark.runtime

PP2: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
TP2: dict[str, Any] = {"tensor_parallel": 2}
DP2: dict[str, Any] = {"data_parallel": 2}
HUB: dict[str, Any] = {**TP2, **PP2}
INTERLEAVED: dict[str, Any] = {**PP2, "schedule": "interleaved", "num_model_chunks": 2}

FP32: dict[str, dict[str, Any]] = {
    "dp4": {"data_parallel": 4},
    "tp4": {"tensor_parallel": 4},
    "pp4": {"pipeline_parallel": 4, "num_microbatches": 4},
    "tp2-pp2": HUB,
    "tp2-dp2": {**TP2, **DP2},
    "pp2-dp2-uneven": {**PP2, **DP2, "layers_per_stage": (3, 1)},
    "interleaved-tp2": {**INTERLEAVED, **TP2},
    "interleaved-dp2": {**INTERLEAVED, **DP2},
    "sp2-dp2": {**TP2, **DP2, "sequence_parallel": True},
    "sp2-pp2-recompute": {**TP2, **PP2, "sequence_parallel": True, "recompute_layers_per_stage": (2, 1)},
    "2d": {"tensor_mode": "2d", "tensor_parallel": 4},
    "2.5d-pp2": {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2, **PP2, "layers_per_stage": (1, 3)},
    "2.5d-dp2": {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2, **DP2},
}

CPU = Offload(optimizer=1.0, tier="cpu")
NVME = Offload(optimizer=1.0, tier="nvme")
BF16: dict[str, dict[str, Any]] = {
    "tp2-dp2": {**TP2, **DP2},
    "zero1-dp4": {"data_parallel": 4, "zero_stage": 1},
    "zero2-tp2-accumulation": {**TP2, **DP2, "zero_stage": 2, "num_microbatches": 2},
    "zero1-pp2": {**PP2, **DP2, "zero_stage": 1},
    "zero1-sp2": {**TP2, **DP2, "zero_stage": 1, "sequence_parallel": True},
    "zero1-offload": {"data_parallel": 4, "zero_stage": 1, "offload": CPU},
    "zero1-nvme": {**PP2, **DP2, "zero_stage": 1, "offload": NVME},
    "zero3": {"data_parallel": 4, "zero_stage": 3, "num_microbatches": 2, "hardware": {"device": "cuda"}},
    "2d": {"tensor_mode": "2d", "tensor_parallel": 4},
}


class Visit(NamedTuple):
    """What a layout made of a checkpoint."""

    again: Path
    """Saved as it was loaded."""
    later: Path
    """Saved after a step more."""
    losses: list[float]
    """Of the steps after that."""
    resumed: list[float]
    """Of the same steps, by another engine of this layout that went on from there."""


def loaded(plan: Plan, source: Path, steps: range) -> Any:
    """An engine that goes on from a checkpoint."""
    from runtime.checkpoints.loading import load

    engine = make(plan, nvme_folder=source.parent)
    assert load(engine, source).facts.step == steps.start
    engine.settle(batch_of(plan, steps.start, engine.rows))
    return engine


def visit(plan: Plan, source: Path | None, folder: Path, step: int) -> Visit:
    """Go on from ``source`` at ``step``, or begin, and save."""
    engine = make(plan, SEED, folder) if source is None else loaded(plan, source, range(step, step + 1))
    again = save(engine, plan, folder / "again", step)
    go_on(engine, plan, range(step, step + 1))
    later = save(engine, plan, folder / "later", step + 1)
    rest = range(step + 1, step + 3)
    losses = go_on(engine, plan, rest)
    return Visit(again, later, losses, go_on(loaded(plan, later, rest), plan, rest))
