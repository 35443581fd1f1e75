"""The same training in one process of plain PyTorch, which every layout has to agree with."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer

from planner.plans.plan import Plan
from runtime.engines.engine import Batch
from runtime.states.model import DTYPES, build_model
from runtime.states.optimizers import decay_groups
from runtime.verify.gradients import Gradients
from runtime.verify.routing import Picks, record_picks

PLAIN_ATTENTION = "sdpa"
"""What Transformers runs by default, which is causal without a padding mask."""


class ReferenceStep(NamedTuple):
    """Loss and gradients of one step, before its update."""

    loss: float
    gradients: Gradients
    picks: Picks = {}  # noqa: RUF012 - nobody writes into it
    """Where routers sent tokens, if there are any."""


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
    experts = plan.problem.model.experts
    balances = experts is not None and experts.balance_loss > 0
    picks = {} if experts is None else record_picks(model, experts.top_k)
    for batch in batches:
        picks.clear()
        loss = _balanced_loss(model, batch, plan.layout.micro_batch) if balances else _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.grad is not None}
        yield ReferenceStep(loss.item(), gradients, dict(picks))
        plain.step()
        plain.zero_grad()


def _loss(model: Any, rows: Batch) -> Tensor:
    logits: Tensor = model(rows["input_ids"]).logits
    return functional.cross_entropy(logits.flatten(0, 1), rows["labels"].flatten())


def _balanced_loss(model: Any, batch: Batch, micro_batch: int) -> Tensor:
    """With what keeps experts balanced, which is a loss of all tokens of a micro batch, as Transformers has it."""
    losses = []
    for parts in zip(*(torch.split(batch[name], micro_batch) for name in ("input_ids", "labels")), strict=True):
        outputs = model(parts[0], output_router_logits=True)
        own = functional.cross_entropy(outputs.logits.flatten(0, 1), parts[1].flatten())
        losses.append(own + model.config.router_aux_loss_coef * outputs.aux_loss)
    return torch.stack(losses).mean()
