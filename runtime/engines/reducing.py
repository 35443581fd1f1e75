"""Sums of gradients over the ranks of a group."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_WHOLE_ELEMENTS = 2**20
"""Gradients of at least so many elements are reduced alone, smaller ones together."""


def sum_over(group: dist.ProcessGroup, gradients: Sequence[Tensor]) -> None:
    """Sum gradients in place, in the precision that they have; every rank of ``group`` has to call it."""
    small = [gradient for gradient in gradients if gradient.numel() < _WHOLE_ELEMENTS]
    for gradient in gradients:
        if gradient.numel() >= _WHOLE_ELEMENTS:
            dist.all_reduce(gradient, group=group)
    if not small:
        return
    together = torch.cat([gradient.flatten() for gradient in small])
    dist.all_reduce(together, group=group)
    totals = torch.split(together, [gradient.numel() for gradient in small])
    for gradient, total in zip(small, totals, strict=True):
        gradient.copy_(total.view_as(gradient))
