"""The norm of all gradients is that of one process in every kind of layout, and what is clipped by it trains the same.

Ranks are started once for all layouts of as many processes.
"""

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from planner.plans.plan import Plan
from tests.runtime.checkpoints.test_checkpoints import BF16, DP2, FP32, HUB, NVME, PP2, TP2
from tests.runtime.conftest import make_plan, run_ranks
from tests.runtime.family_models import MODELS
from tests.runtime.saving import RATE, make
from tests.runtime.training import SEED, own_batches, plain_steps

pytestmark = pytest.mark.runtime

LONGEST = 1.0
"""Less than any norm here."""
PADDED: dict[str, Any] = {"model": {"vocab_size": 251}}
MIXED: dict[str, Any] = {"precision": "bf16"}
UNTIED: dict[str, Any] = {"model": {"vocab_size": 251, "tied_embeddings": False}}
QWEN: dict[str, Any] = {"model": {**MODELS["qwen2"], "vocab_size": 251}}
CUBE: dict[str, Any] = {"tensor_mode": "3d", "tensor_parallel": 8}
EXCHANGE: dict[str, Any] = {"sequence_parallel_degree": 2}

ALIKE = ("dp4", "pp4", "sp2-pp2-recompute", "2.5d-dp2", "tp2-dp2")
"""Layouts of checkpoints that add no kind of their own here."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": PADDED,
    **{name: {**PADDED, **fields} for name, fields in FP32.items() if name not in ALIKE},
    **{
        f"{name}, bf16": {**PADDED, **fields, "precision": "bf16"} for name, fields in BF16.items() if name not in ALIKE
    },
    "tp2-pp2, untied": {**UNTIED, **HUB},
    "qwen2, tp2-dp2": {**QWEN, **TP2, **DP2},
    "qwen2, all-to-all": {**QWEN, **EXCHANGE, **DP2},
    "qwen2, all-to-all x tp2": {**QWEN, **EXCHANGE, **TP2},
    "qwen2, all-to-all x pp2": {**QWEN, **EXCHANGE, **PP2},
    "3d": {**PADDED, **CUBE},
    "2.5d of eight": {**PADDED, "tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2},
}
SCALED: dict[str, dict[str, Any]] = {
    name: {**PADDED, **BF16[name], "precision": "fp16"} for name in ("tp2-dp2", "zero1-dp4", "zero3")
}
"""In fp16, where the first steps overflow."""
BOUNDS = {"fp32": 2e-5, "bf16": 2e-2, "fp16": 2e-3}
LOSS_BOUNDS = {"fp32": 2e-6, "bf16": 5e-3}
"""After two updates of AdamW, which turns the rounding of a small gradient into a step of full length."""


class Ran(NamedTuple):
    """What some steps were like."""

    norms: list[float | None]
    losses: list[float]
    before: float = 0.0
    """The loss before a step that was to update nothing."""
    after: float = 0.0


def plans() -> dict[str, Plan]:
    has_drive = importlib.util.find_spec("tensornvme") is not None
    chosen = {name: fields for name, fields in LAYOUTS.items() if has_drive or fields.get("offload") != NVME}
    return {name: make_plan(**fields) for name, fields in (chosen | SCALED).items()}


def clipped(plan: Plan, folder: Path) -> Ran:
    """Steps with the same batches as the reference; in fp16 the first one, until it does not overflow."""
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.train.clipping import Clipping

    clear_layout_converter()
    engine = make(plan, SEED, folder)
    clipping, norms, losses = Clipping(engine, LONGEST), [], []
    own = list(own_batches(engine, plan))
    for batch in own[:1] * 12 if plan.layout.precision == "fp16" else own:
        losses.append(engine.step(batch))
        norms.append(clipping.norm)
        if plan.layout.precision == "fp16" and clipping.norm is not None:
            break
    before = engine.evaluate(own[0])
    engine.step(own[0], lambda loss: False)
    return Ran(norms, losses, before, engine.evaluate(own[0]))


def _all_of(world: int, folder: Path, _: int) -> dict[str, Ran]:
    if not world:
        return {name: reference(plan) for name, plan in plans().items()}
    return {name: clipped(plan, folder) for name, plan in plans().items() if plan.layout.num_devices == world}


def reference(plan: Plan) -> Ran:
    """Plain PyTorch in fp32."""
    norms: list[float | None] = []
    losses = []
    for loss, model in plain_steps(plan, torch.optim.AdamW, RATE):
        losses.append(loss)
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST)))
    return Ran(norms, losses)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    folder = tmp_path_factory.mktemp("plain")
    return run_ranks(1, partial(_all_of, 0, folder), folder)[0]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ran]:
    whole: dict[str, Ran] = {}
    for world in (1, 4, 8):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        everyone = run_ranks(world, partial(_all_of, world, folder), folder, timeout_s=480)
        assert all(ran == everyone[0] for ran in everyone), "ranks differ"
        whole |= everyone[0]
    return whole


@pytest.mark.parametrize("name", plans())
def test_the_norm_is_that_of_one_process(name: str, found: dict[str, Ran], expected: dict[str, Ran]) -> None:
    plan, ran, plain = plans()[name], found[name], expected[name]
    bound = BOUNDS[plan.layout.precision]
    assert min(norm for norm in plain.norms if norm is not None) > LONGEST
    if plan.layout.precision == "fp16":
        assert ran.norms[-1] == pytest.approx(plain.norms[0], rel=bound)
        assert set(ran.norms[:-1]) <= {None}
    else:
        assert ran.norms == pytest.approx(plain.norms, rel=bound)
        assert ran.losses == pytest.approx(plain.losses, rel=LOSS_BOUNDS[plan.layout.precision])
    assert ran.after == ran.before, "a step that is not kept changes nothing"
