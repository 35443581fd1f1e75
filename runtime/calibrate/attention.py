"""Rate of causal attention, forward and backward, by the kernels that a training run gets."""

import torch
from torch.nn import functional

from planner.handover.measurements import AttentionRates
from runtime.calibrate.timing import QueuedTimer

HEADS, HEAD = 16, 128
TOKENS, SEQUENCES = 2048, 8
KIND = torch.bfloat16


def attention_flops(sequences: int, tokens: int) -> float:
    """FLOP of the two products of forward, the half of the scores that causal attention computes."""
    return 4.0 * sequences * HEADS * tokens * tokens * HEAD / 2


def measure_attention(
    device: torch.device, budget_s: float, *, kind: torch.dtype = KIND, tokens: int = TOKENS, sequences: int = SEQUENCES
) -> AttentionRates | None:
    """Forward, and backward as what it adds to forward; ``None`` where the device has too little memory for it.

    Backward computes twice the FLOP of forward.
    """
    try:
        query, key, value = (
            torch.randn(sequences, HEADS, tokens, HEAD, device=device).to(kind).requires_grad_() for _ in range(3)
        )
        gradient = torch.randn_like(query)
        timer = QueuedTimer(device)

        def forward(_: int) -> torch.Tensor:
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

        def both(index: int) -> object:
            return torch.autograd.grad(forward(index), (query, key, value), gradient)

        forward_s = timer.in_step_seconds([forward], budget_s / 3)
        both_s = timer.in_step_seconds([both], budget_s * 2 / 3)
    except torch.OutOfMemoryError:
        return None
    flops = attention_flops(sequences, tokens)
    # Never faster than its FLOP at twice the rate of forward: noise on a busy device.
    backward_s = max(both_s - forward_s, forward_s)
    return AttentionRates(forward_flops_per_s=flops / forward_s, backward_flops_per_s=2.0 * flops / backward_s)
