"""Evaluation leaves training as it is, batches grow, and the settings of the optimizer are those of plain PyTorch."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
import torch
from torch.nn import functional

from planner.jobs.job import OptimizerSection
from planner.plans.plan import Plan
from tests.runtime.training import LEARNING_RATES, SEED, MakePlan, Ranks, batches

pytestmark = pytest.mark.runtime

SETTINGS = OptimizerSection(beta1=0.8, beta2=0.95, epsilon=1e-6, weight_decay=0.5)
CLIPPED = msgspec.structs.replace(SETTINGS, clip_norm=0.05, epsilon=1e-2)
"""AdamW does not see the length of gradients unless epsilon is of their size."""
LAYOUTS: dict[str, dict[str, Any]] = {
    "accumulation": {"num_microbatches": 4},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2, "num_microbatches": 4},
    "pp2-dp2": {"pipeline_parallel": 2, "data_parallel": 2, "num_microbatches": 4},
    "interleaved": {
        "pipeline_parallel": 2,
        "num_microbatches": 4,
        "schedule": "interleaved",
        "num_model_chunks": 2,
        "layers_per_stage": (2, 2),
    },
    "2d-pp2": {"tensor_mode": "2d", "tensor_parallel": 4, "pipeline_parallel": 2, "num_microbatches": 4},
    "dp2-zero2": {"data_parallel": 2, "zero_stage": 2, "precision": "bf16", "num_microbatches": 2},
}
SIZES = (4, 4, 8)
"""Sequences of each step, of the 8 that an evaluation takes."""
LEARNING_RATE = LEARNING_RATES[torch.optim.AdamW]


def trained(plan: Plan, settings: OptimizerSection) -> list[tuple[float, float]]:
    """Loss of each batch as evaluated before its step, and of its first sequences as the step has it."""
    from runtime.engines.choice import make_engine
    from runtime.train.clipping import Clipping

    engine = make_engine(plan, seed=SEED, learning_rate=LEARNING_RATE)
    engine.set_optimizer(settings)
    if settings.clip_norm:
        Clipping(engine, settings.clip_norm)
    return grown(engine, plan, SIZES)


def grown(engine: Any, plan: Plan, sizes: Sequence[int]) -> list[tuple[float, float]]:
    """Each batch evaluated as a whole, and a step on its first sequences."""
    found = []
    for size, batch in zip(sizes, batches(plan), strict=True):
        engine.set_batch(plan.problem.global_batch)
        evaluated = engine.evaluate({name: t[engine.rows] for name, t in batch.items()})
        engine.set_batch(size)
        found.append((evaluated, engine.step({name: t[engine.rows] for name, t in batch.items()})))
    return found


def plain(plan: Plan, settings: OptimizerSection, sizes: Sequence[int] = SIZES) -> list[tuple[float, float]]:
    """The same of plain PyTorch, whose norms and biases do not decay."""
    from runtime.states.model import build_model

    model = build_model(plan.problem.model, SEED)
    named = dict(model.named_parameters())
    vectors = [p for name, p in named.items() if name.endswith("bias") or ".ln_" in name]
    weights = [p for name, p in named.items() if not (name.endswith("bias") or ".ln_" in name)]
    assert len(vectors) + len(weights) == len(named)
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(
        groups,
        lr=LEARNING_RATE,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )

    def loss_of(batch: dict[str, torch.Tensor], size: int) -> torch.Tensor:
        logits = model(batch["input_ids"][:size]).logits
        return functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:size].flatten())

    losses = []
    for size, batch in zip(sizes, batches(plan), strict=True):
        with torch.no_grad():
            evaluated = float(loss_of(batch, plan.problem.global_batch))
        loss = loss_of(batch, size)
        loss.backward()
        losses.append((evaluated, float(loss)))
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return losses


@pytest.mark.parametrize("name", LAYOUTS)
def test_batches_that_grow_and_are_evaluated_in_between_have_the_losses_of_plain_pytorch(
    name: str, plan: MakePlan, ranks: Ranks
) -> None:
    chosen = plan(**LAYOUTS[name])
    ((expected, other),) = ranks(1, lambda rank: (plain(chosen, CLIPPED), plain(chosen, SETTINGS)))
    assert expected[-1] != pytest.approx(other[-1], rel=1e-2), "clipping tells"
    assert expected[0][0] != pytest.approx(expected[0][1], rel=2e-3), "another batch tells"
    rounding = 1e-5 if chosen.layout.precision == "fp32" else 2e-3
    for found in ranks(chosen.layout.num_devices, lambda rank: trained(chosen, CLIPPED)):
        assert found == [pytest.approx(one, rel=rounding) for one in expected]
    assert expected[2] == pytest.approx((expected[2][1],) * 2, rel=1e-6)
