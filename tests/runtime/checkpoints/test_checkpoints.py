"""Checkpoints know no layout: what any layout saves, every other one goes on from."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from tests.runtime.family_models import MODELS
from tests.runtime.saving import batch_of, bit_differences, go_on, make, save
from tests.runtime.training import SEED, MakePlan, Ranks

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
    "pp2-dp2-uneven": {**PP2, **DP2, "layers_per_stage": (3, 1)},
    "interleaved-tp2": {**INTERLEAVED, **TP2},
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

BOUNDS = {"fp32": 1e-6, "bf16": 1e-3, "fp16": 1e-3}
"""By how much losses of layouts differ, in rounding."""


TABLES = {"fp32": FP32, "bf16": BF16}


def thirds(table: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Layouts that one start of ranks goes through."""
    has_drive = importlib.util.find_spec("tensornvme") is not None
    names = [name for name, fields in table.items() if has_drive or fields.get("offload") != NVME]
    return [names[start::3] for start in range(3)]


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


def round_trips(hub: Plan, plans: dict[str, Plan], folder: Path) -> dict[str, list[str]]:
    """What went wrong on this rank, by layout: each goes on from the hub's checkpoint, and the hub from its."""
    first = visit(hub, None, folder / "hub", 0)
    if first.resumed != first.losses:
        return {"hub": [f"losses {first.losses}, resumed {first.resumed}"]}
    return {name: list(_faults(hub, plan, first, folder / name)) for name, plan in plans.items()}


def _faults(hub: Plan, plan: Plan, first: Visit, folder: Path) -> Iterator[str]:
    found = visit(plan, first.later, folder, 1)
    if found.resumed != found.losses:
        yield f"the losses are {found.losses}, and {found.resumed} where it was resumed"
    rest = range(2, 4)
    engine = loaded(hub, found.later, rest)
    back = save(engine, hub, folder / "back", 2)
    losses = go_on(engine, hub, rest)
    if plan.problem.model.dropout == 0 and losses != pytest.approx(found.losses, rel=BOUNDS[plan.layout.precision]):
        yield f"the losses are {found.losses}, and {losses} under another layout"
    if os.environ["RANK"] == "0":
        yield from (f"{name} changed as it came" for name in bit_differences(first.later, found.again))
        yield from (f"{name} changed as it went" for name in bit_differences(found.later, back))


@pytest.mark.parametrize(("precision", "names"), [(kind, names) for kind in TABLES for names in thirds(TABLES[kind])])
def test_every_layout_goes_on_from_every_other(
    precision: str, names: list[str], plan: MakePlan, ranks: Ranks, tmp_path: Path
) -> None:
    """The losses of a layout are those of a run without a break; its states those of another, bit by bit."""
    # A vocabulary that no number of ranks divides, and that is padded with and without tensor parallelism.
    common: dict[str, Any] = {"model": {"vocab_size": 251}, "precision": precision}
    plans = {name: plan(**common, **TABLES[precision][name]) for name in names}
    for found in ranks(4, lambda rank: round_trips(plan(**common, **HUB), plans, tmp_path)):
        assert found == {name: [] for name in plans}


def test_dropout_and_the_loss_scale_go_on_too(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    model = {"vocab_size": 250, "tied_embeddings": False, "dropout": 0.1}
    names = ("tp2-dp2", "zero1-dp4", "zero1-sp2", "zero3", "2d")
    plans = {name: plan(model=model, precision="fp16", **BF16[name]) for name in names}
    hub = plan(model=model, precision="fp16", **HUB)
    for found in ranks(4, lambda rank: round_trips(hub, plans, tmp_path)):
        assert found == {name: [] for name in plans}


def test_a_cube_and_a_deep_square_go_on_from_each_other(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    square = {"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}
    hub = plan(model={"vocab_size": 251}, tensor_mode="3d", tensor_parallel=8)
    plans = {"2.5d": plan(model={"vocab_size": 251}, **square)}
    for found in ranks(8, lambda rank: round_trips(hub, plans, tmp_path)):
        assert found == {"2.5d": []}


def test_other_families_go_on_too(plan: MakePlan, ranks: Ranks, tmp_path: Path) -> None:
    """Qwen2's grouped heads and biases; sequences that the ranks of a group divide, and others by all-to-all."""
    model = {**MODELS["qwen2"], "vocab_size": 251}
    layouts: dict[str, dict[str, Any]] = {
        "tp2-dp2": {**TP2, **DP2},
        "pp4": FP32["pp4"],
        "all-to-all": {**DP2, "sequence_parallel_degree": 2},
        "sp2-dp2": FP32["sp2-dp2"],
    }
    plans = {name: plan(model=model, **fields) for name, fields in layouts.items()}
    for found in ranks(4, lambda rank: round_trips(plan(model=model, **HUB), plans, tmp_path)):
        assert found == {name: [] for name in plans}
