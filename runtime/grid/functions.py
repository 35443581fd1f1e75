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
        """Normalise, scale and shift ``states`` ``[..., own part]``."""
        own_mean = states.mean(-1, keepdim=True, dtype=torch.float32)
        centred = states - own_mean
        own_variance = torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square_() / states.shape[-1]
        mean, variance = _moments(own_mean, own_variance, group)
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(states, weight, mean, scale)
        ctx.group = group
        normal = torch.addcmul((own_mean - mean) * scale, centred, scale)
        return torch.addcmul(bias.float(), normal, weight.float(), out=torch.empty_like(states))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """One all-reduce of two float32 numbers per token; weight and bias get this rank's share."""
        states, weight, mean, scale = ctx.saved_tensors
        gradient, wide = gradients[0].flatten(0, -2), weight.float()
        centred = states.flatten(0, -2) - mean.view(-1, 1)
        scale, product = scale.view(-1, 1), gradient * centred
        weighted = gradient * wide
        sums = torch.stack((weighted.sum(1), (product @ wide) * scale[:, 0])) / states.shape[-1]
        size = dist.get_world_size(ctx.group)
        if size > 1:
            dist.all_reduce(sums, group=ctx.group)
        means = (sums / size)[..., None]
        rest = torch.addcmul(-means[0] * scale, centred, -means[1] * scale.square())
        found = torch.addcmul(rest, weighted, scale, out=torch.empty_like(gradient)).view_as(states)
        shares = (scale[:, 0] @ product, gradient.sum(0, dtype=torch.float32))
        return found, *(share.to(weight.dtype) for share in shares), None, None


def _moments(own_mean: Tensor, own_variance: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Mean and variance over the whole last dimension, from those of its equally long parts."""
    size = dist.get_world_size(group)
    if size == 1:
        return own_mean, own_variance
    own = torch.stack((own_mean, own_variance))
    parts = own.new_empty((size * 2, *own_mean.shape))
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
        divided = dist.get_world_size(group) > 1
        if divided:
            dist.all_reduce(peak, dist.ReduceOp.MAX, group=group)
        total = (logits[:, :real] - peak[:, None]).exp_().sum(1)  # a difference with float32 is float32
        column = labels - first
        is_own = (column >= 0) & (column < real)
        column = column.where(is_own, 0)
        wanted = logits.gather(1, column[:, None]).squeeze(1).float().where(is_own, 0.0)
        sums = torch.stack((total, wanted))
        if divided:
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
