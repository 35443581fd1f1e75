"""A few training steps on fixed batches, by a plan and by plain PyTorch in one process."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from planner.plans.plan import Plan

LEARNING_RATES: dict[type[torch.optim.Optimizer], float] = {torch.optim.SGD: 0.5, torch.optim.AdamW: 1e-2}
GPU_LEARNING_RATE = 1e-3
"""Of AdamW and a wider model, where steps of 1e-2 multiply the rounding of bf16."""
STEPS = 3
SEED = 7

MakePlan = Callable[..., Plan]
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]
Batch = dict[str, torch.Tensor]
Gradients = dict[str, NDArray[np.float32]]
"""By parameter; no tensors, which a rank could not hand over and end."""


def batches(plan: Plan) -> list[Batch]:
    """The global batches, the same for every layout: counting from random numbers."""
    generator = torch.Generator().manual_seed(SEED)
    start = torch.randint(0, 64, (STEPS, plan.problem.global_batch, 1), generator=generator)
    tokens = (start + torch.arange(plan.problem.seq_len + 1)) % 64
    return [{"input_ids": step[:, :-1].contiguous(), "labels": step[:, 1:].contiguous()} for step in tokens]


def make_engine(plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Any:
    """The engine of this rank, on the CPU."""
    from runtime.engines.hybrid import HybridEngine

    return HybridEngine(plan, "cpu", seed=SEED, learning_rate=LEARNING_RATES[optimizer], optimizer=optimizer)


def own_batches(engine: Any, plan: Plan) -> Iterator[Batch]:
    """This rank's rows of every global batch."""
    return ({name: t[engine.rows] for name, t in batch.items()} for batch in batches(plan))


def train(plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> list[float]:
    """The losses of this rank over a few steps."""
    engine = make_engine(plan, optimizer)
    return [engine.step(batch) for batch in own_batches(engine, plan)]


def plain_steps(
    plan: Plan, optimizer: type[torch.optim.Optimizer], learning_rate: float | None = None
) -> Iterator[tuple[float, torch.nn.Module]]:
    """Loss and model of each step of plain PyTorch in fp32, before its update."""
    from runtime.states.model import build_model

    model = build_model(plan.problem.model, SEED)
    weights: dict[str, Any] = {"params": [one for one in model.parameters() if one.ndim > 1]}
    others: dict[str, Any] = {"params": [one for one in model.parameters() if one.ndim == 1], "weight_decay": 0.0}
    plain = optimizer([weights, others], lr=learning_rate or LEARNING_RATES[optimizer])  # type: ignore[call-arg]
    for batch in batches(plan):
        logits = model(batch["input_ids"]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()
        yield float(loss), model
        plain.step()
        plain.zero_grad()


def reference(
    plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD, learning_rate: float | None = None
) -> list[float]:
    """The losses of plain PyTorch in fp32."""
    return [loss for loss, _ in plain_steps(plan, optimizer, learning_rate)]


def reference_gradients(plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> list[Gradients]:
    """The gradients of each step of plain PyTorch in fp32."""
    return [
        {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
        for _, model in plain_steps(plan, optimizer)
    ]


def gathered_gradients(plan: Plan, prepare: Callable[[Any], None] = lambda engine: None) -> list[Gradients]:
    """The gradients of each step on this rank, those that tensor parallelism splits put together."""
    from runtime.verify.gradients import watch_gradients

    engine = make_engine(plan)
    prepare(engine)
    found = watch_gradients(engine)
    for batch in own_batches(engine, plan):
        engine.step(batch)
    return found


def differing(found: list[Gradients], expected: list[Gradients]) -> dict[str, float]:
    """Parameters whose gradient is off in some step, and by how much of its norm."""
    worst: dict[str, float] = {}
    for own, reference_step in zip(found, expected, strict=True):
        for name, gradient in own.items():
            # Where the weights are tied, the last stage knows them under the other name.
            wanted = reference_step[name if name in reference_step else "transformer.wte.weight"]
            if padding := len(gradient) - len(wanted):  # of the vocabulary
                wanted = np.pad(wanted, ((0, padding), (0, 0)))
            # An expert that gets no tokens has none.
            error = float(np.linalg.norm(gradient - wanted) / (np.linalg.norm(wanted) or 1.0))
            if error > 1e-4:
                worst[name] = max(worst.get(name, 0.0), error)
    return worst
