"""The kernel of the update in one pass against its operations, on a GPU."""

import pytest
import torch

from runtime.states.mixed_adamw import MixedAdamW, Updated, divided, hold_halves, joined, update_by_operations

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.runtime,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

NUMBERS = (0.9, 0.95, 1.0 - 1e-3 * 0.1, 1e-3 / (1.0 - 0.9), (1.0 - 0.95) ** 0.5, 1e-8, 0.3)
"""Of the first step of the optimizer below."""
SIZES = (70001, 7, 2**16)


def test_the_kernel_updates_parts_that_lie_anywhere() -> None:
    """Parts of ZeRO begin at any element of what is gathered, and of what was scattered."""
    torch.manual_seed(3)
    weights = [torch.randn(size, device="cuda") for size in SIZES]
    parts, gradients = ([torch.randn(size + 1, device="cuda").bfloat16()[1:] for size in SIZES] for _ in range(2))
    expected = []
    for one in weights:
        working, rest = divided(one)
        expected.append(Updated(rest, working, torch.zeros_like(one), torch.zeros_like(one)))
    optimizer = MixedAdamW([{"params": weights}], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    rests = hold_halves(optimizer, dict(zip(weights, parts, strict=True)))
    optimizer.gradient_scale = 0.3
    for rest, gradient in zip(rests, gradients, strict=True):
        rest.grad = gradient
    optimizer.step()
    for rest, gradient, other in zip(rests, gradients, expected, strict=True):
        update_by_operations(other, gradient, NUMBERS)
        torch.testing.assert_close(optimizer.weight(rest), joined(other.working, other.rest))
