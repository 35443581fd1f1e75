"""The same training in one process of plain PyTorch, which every layout has to agree with."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from planner.plans.plan import Plan
from runtime.engines.engine import Batch
from runtime.states.model import DTYPES, build_model
from runtime.states.optimizers import decay_groups
from runtime.verify.gradients import Gradients

PLAIN_ATTENTION = "sdpa"
"""What Transformers runs by default, which is causal without a padding mask."""


class ReferenceStep(NamedTuple):
    """Loss and gradients of one step, before its update."""

    loss: float
    gradients: Gradients


def counting_batches(plan: Plan, steps: int, seed: int) -> list[Batch]:
    """Global batches that count through the vocabulary from random tokens, the same for every layout."""
    generator = torch.Generator().manual_seed(seed)
    problem = plan.problem
    vocabulary = problem.model.vocab_size
    start = torch.randint(0, vocabulary, (steps, problem.global_batch, 1), generator=generator)
    tokens = (start + torch.arange(problem.seq_len + 1)) % vocabulary
    return [{"input_ids": step[:, :-1].contiguous(), "labels": step[:, 1:].contiguous()} for step in tokens]


def reference_steps(
    plan: Plan, batches: Sequence[Batch], *, seed: int, learning_rate: float, optimizer: Callable[..., Optimizer]
) -> Iterator[ReferenceStep]:
    """Train in float32 on the CPU, from the weights that the layout starts from, rounded as it rounds them."""
    dtype = DTYPES[plan.layout.precision]
    model = build_model(plan.problem.model, seed, dtype=dtype, attention=PLAIN_ATTENTION).float()
    plain = optimizer(decay_groups(model), lr=learning_rate)
    for batch in batches:
        logits: Tensor = model(batch["input_ids"]).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
        yield ReferenceStep(loss.item(), gradients)
        plain.step()
        plain.zero_grad()
