"""How long the host takes for a block of a model: its Python, the dispatch of its kernels and their gradients."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from runtime.calibrate.timing import median_seconds

BLOCKS = 8
"""Blocks issued one after the other, forward and backward; fewer kernels than the queue of a device holds."""
HIDDEN, HEADS, TOKENS = 64, 4, 8
"""So small that no device takes longer than the host."""


def gpt2_blocks(device: torch.device, **settings: Any) -> list[nn.Module]:
    """Blocks of Hugging Face's GPT-2 in bf16, as small as :data:`HIDDEN`; ``settings`` are those of ``GPT2Config``."""
    config = GPT2Config(
        n_embd=HIDDEN, n_head=HEADS, resid_pdrop=0.0, attn_pdrop=0.0, **{"attn_implementation": "sdpa", **settings}
    )
    return [GPT2Block(config, layer_idx=layer).to(device, torch.bfloat16) for layer in range(BLOCKS)]


class BlockTimer:
    """Times the host while it issues blocks forward and backward, without waiting for the device."""

    def __init__(
        self, blocks: Sequence[Callable[..., Any]], device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """``blocks`` take and give hidden states of :data:`TOKENS` tokens; ``clock`` reads seconds."""
        self._blocks, self._clock = blocks, clock
        self._states = torch.ones(1, TOKENS, HIDDEN, device=device, dtype=torch.bfloat16, requires_grad=True)

    def seconds(self) -> tuple[float, float]:
        """Host time of forward and of backward of one block."""
        for block in self._blocks:
            if isinstance(block, nn.Module):
                block.zero_grad(set_to_none=True)
        began = self._clock()
        states: Tensor = self._states
        for block in self._blocks:
            states = block(states)[0]
        turned = self._clock()
        states.backward(torch.ones_like(states))  # type: ignore[no-untyped-call]
        return (turned - began) / len(self._blocks), (self._clock() - turned) / len(self._blocks)


def gpt2_block_s(device: torch.device, budget_s: float) -> float:
    """Host time of forward and backward of one block of Hugging Face's GPT-2, the median over about ``budget_s``."""
    timer, samples = BlockTimer(gpt2_blocks(device), device), list[float]()
    median_seconds(lambda: samples.append(sum(timer.seconds())), device, budget_s)
    return statistics.median(samples)
