"""The loss head: cross-entropy of hidden states by chunks of tokens, whose logits are never whole in memory.

Each chunk of logits becomes its gradient where it is, and the gradients of states and weight are taken from it at
once, so that backward has nothing left but to scale them.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

COMPILED = "is_compiled"
"""Attribute of a model whose blocks and loss are compiled."""
CHUNK_TOKENS = 4096
"""Tokens whose logits are in memory together; on H200 a product of half as many takes 3 % longer."""
GRADIENT_SCALE = 2.0**8
"""Of the gradients of logits: the small ones, of improbable tokens, would be zero in fp16."""
STATE_SCALE = 2.0**-10
"""Of the states that they are multiplied by: the gradient of a frequent token would overflow there."""


class Vocabulary(NamedTuple):
    """The columns of the logits that this rank has."""

    first: int = 0
    """Number of the first of them."""
    filled: int = 0
    """How many are tokens; those after them pad the vocabulary."""
    group: Any = None
    """The ranks that have the others; ``None``: nobody."""

    @classmethod
    def of(cls, head: Any, config: Any) -> "Vocabulary":
        """That of a loss head of Colossal-AI, or of PyTorch's."""
        columns = head.weight.shape[0]
        known = getattr(head, "old_num_embeddings", columns)
        if not config.enable_tensor_parallelism:
            return cls(0, known)
        group = config.tensor_parallel_process_group
        first = dist.get_rank(group) * columns
        return cls(first, max(0, min(columns, known - first)), group)


def head_loss(states: Tensor, weight: Tensor, labels: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Mean cross-entropy in float32 of ``states``, ``[rows, sequence, hidden]``; ``labels`` are the next tokens.

    ``weight`` is ``[columns, hidden]``. Sums are float32 whatever the precision of the states; the ranks of a group
    that has the vocabulary in parts all get the same loss, and the whole gradient of the states.
    """
    total: Tensor = _HeadLoss.apply(states.flatten(0, -2), weight, labels.flatten(), vocabulary)  # type: ignore[no-untyped-call]
    return total / labels.numel()


def _chances(logits: Tensor, labels: Tensor, filled: int) -> tuple[Tensor, Tensor]:
    """Of each row, over the ``filled`` first columns: logarithm of the sum of exponentials, and the label's logit.

    The latter is 0 where the label, counted from the first column here, is not among them.
    """
    values = logits.float()
    if filled < values.shape[1]:
        values = torch.where(torch.arange(values.shape[1], device=values.device) < filled, values, -torch.inf)
    is_own = (labels >= 0) & (labels < filled)
    chosen = values.gather(1, torch.where(is_own, labels, 0)[:, None])[:, 0]
    return values.logsumexp(1), torch.where(is_own, chosen, 0.0)


def _to_gradients(logits: Tensor, labels: Tensor, sums: Tensor, filled: int) -> None:
    """Put the gradients of the loss, times :data:`GRADIENT_SCALE`, in the place of logits; 0 in what pads."""
    columns = torch.arange(logits.shape[1], device=logits.device)
    chances = torch.where(columns < filled, (logits.float() - sums[:, None]).exp(), 0.0)
    logits.copy_((chances - (columns == labels[:, None]).float()) * GRADIENT_SCALE)


@cache
def _compiled(rows: Any) -> Any:
    """What works on rows of logits, as one kernel for all chunks."""
    return torch.compile(rows, dynamic=False)


def _over_ranks(sums: Tensor, chosen: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """:func:`_chances` of the whole vocabulary, from those of the parts."""
    largest = sums.clone()
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    both = torch.stack(((sums - largest).exp(), chosen))
    dist.all_reduce(both, group=group)
    return largest + both[0].log(), both[1]


class _HeadLoss(Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor, vocabulary: Vocabulary) -> Tensor:
        first, filled, ctx.group = vocabulary
        learns = any(ctx.needs_input_grad[:2])
        total = torch.zeros((), device=states.device)
        state_gradient = torch.empty_like(states) if learns else None
        weight_gradient = torch.zeros_like(weight) if learns else None
        for start in range(0, len(states), CHUNK_TOKENS):
            rows = slice(start, start + CHUNK_TOKENS)
            chunk, own_labels = states[rows], labels[rows] - first
            logits = chunk @ weight.t()
            sums, chosen = _compiled(_chances)(logits, own_labels, filled)
            if ctx.group is not None:
                sums, chosen = _over_ranks(sums, chosen, ctx.group)
            total += (sums - chosen).sum()
            if state_gradient is not None and weight_gradient is not None:
                _compiled(_to_gradients)(logits, own_labels, sums, filled)
                torch.mm(logits, weight, out=state_gradient[rows])
                weight_gradient.addmm_(logits.t(), chunk * STATE_SCALE)
        if learns:
            ctx.save_for_backward(state_gradient, weight_gradient)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states, weight = ctx.saved_tensors
        states.mul_(gradient / GRADIENT_SCALE)
        if ctx.group is not None:
            dist.all_reduce(states, group=ctx.group)
        return states, weight.mul_(gradient / (GRADIENT_SCALE * STATE_SCALE)), None, None
