"""Layer norm and cross-entropy over a hidden size or vocabulary that a group of ranks divides."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class ShardedLayerNorm(torch.autograd.Function):
    """Layer norm whose last dimension is divided over ``group``; statistics in float32.

    The library's norms sum squares in the working precision, which overflows in fp16 as soon as a
    rank's part of a token reaches 65504, and take the variance as a difference of two large sums.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, eps: float, group: dist.ProcessGroup) -> Tensor:
        """Normalise, scale and shift; gradients of ``weight`` and ``bias`` are this rank's share."""
        wide = states.float()
        mean, variance = _moments(wide, group)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(states, weight, mean, scale)
        ctx.group = group
        normal = (wide - mean).mul_(scale)
        return (normal * weight.float() + bias.float()).to(states.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """One all-reduce of two float32 numbers per token."""
        states, weight, mean, scale = ctx.saved_tensors
        gradient = gradients[0].float()
        normal = (states - mean).mul_(scale)
        weight_gradient = (gradient * normal).flatten(0, -2).sum(0)
        bias_gradient = gradient.flatten(0, -2).sum(0)
        gradient = gradient * weight.float()
        means = torch.stack((gradient.mean(-1, keepdim=True), (gradient * normal).mean(-1, keepdim=True)))
        dist.all_reduce(means, group=ctx.group)
        means /= dist.get_world_size(ctx.group)
        states_gradient = (gradient - means[0] - normal * means[1]) * scale
        dtype = weight.dtype
        return states_gradient.to(states.dtype), weight_gradient.to(dtype), bias_gradient.to(dtype), None, None


def _moments(wide: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Mean and variance over the whole last dimension, from those of its equally long parts."""
    mean = wide.mean(-1, keepdim=True)
    own = torch.stack((mean, (wide - mean).square().mean(-1, keepdim=True)))
    size = dist.get_world_size(group)
    parts = torch.empty((size * 2, *own.shape[1:]), dtype=own.dtype, device=own.device)
    dist.all_gather_into_tensor(parts, own, group=group)
    means, variances = parts[0::2], parts[1::2]
    mean = means.mean(0)
    return mean, variances.mean(0) + (means - mean).square().mean(0)


class ShardedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of each token where ``group`` divides the vocabulary; in float32, without padding."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, first: int, vocab_size: int, group: dist.ProcessGroup
    ) -> Tensor:
        """Losses ``[tokens]`` of ``logits`` ``[tokens, own rows]``.

        ``first`` is the token of the first column; columns from ``vocab_size`` on are padding.
        """
        real = min(max(vocab_size - first, 0), logits.shape[1])
        peak = torch.full((len(logits),), -torch.inf, device=logits.device)
        if real:
            peak = logits[:, :real].amax(1).float()
        dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        total = (logits[:, :real] - peak[:, None]).exp_().sum(1)  # a difference with float32 is float32
        column = labels - first
        is_own = (column >= 0) & (column < real)
        column = column.where(is_own, 0)
        wanted = logits.gather(1, column[:, None]).squeeze(1).float().where(is_own, 0.0)
        sums = torch.stack((total, wanted))
        dist.all_reduce(sums, group=group)
        normaliser = peak + sums[0].log()
        ctx.save_for_backward(logits, normaliser, column, is_own)
        ctx.real = real
        return normaliser - sums[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax less the label, times the gradient of the token's loss."""
        logits, normaliser, column, is_own = ctx.saved_tensors
        probabilities = (logits - normaliser[:, None]).exp_()
        probabilities[:, ctx.real :] = 0.0
        probabilities.scatter_add_(1, column[:, None], -is_own.to(probabilities.dtype)[:, None])
        probabilities *= gradients[0][:, None]
        return probabilities.to(logits.dtype), None, None, None, None
