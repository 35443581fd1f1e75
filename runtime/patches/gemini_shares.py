"""Shares of Gemini's states that stay on the device, counted chunk by chunk."""

from typing import Any

import torch
from colossalai.accelerator import get_accelerator
from colossalai.zero.gemini.placement_policy import StaticPlacementPolicy
from torch import Tensor


def count_chunks_once() -> None:
    """Have the shares of Gemini's static placement be shares of the states; calling it again changes nothing.

    Colossal-AI 0.5.0 (zero/gemini/placement_policy.py, setup_grads_device) adds up the size of a chunk
    once for every parameter in it, so that with twelve parameters in a chunk every share of the optimizer
    above a twelfth offloads all of it, and no share of the parameters below eleven twelfths offloads any.
    """
    StaticPlacementPolicy.setup_grads_device = _place_gradients


def _place_gradients(policy: Any, parameters: list[Tensor], devices: dict[Tensor, torch.device]) -> None:
    """Fill ``devices`` with where the gradient and the states of each parameter go, the same on every rank."""
    chunks = list(dict.fromkeys(policy.chunk_manager.get_chunk(parameter) for parameter in parameters))
    total = sum(chunk.chunk_mem for chunk in chunks)
    wanted, offloaded = total * policy.offload_optim_frac, 0
    for chunk in chunks:
        device = get_accelerator().get_current_device()
        if not chunk.keep_gathered and offloaded < wanted:
            device = torch.device("cpu")
            offloaded += chunk.chunk_mem
        for parameter in chunk.get_tensors():
            devices[parameter] = device
    policy.keep_gathered_chunk_mem = total * (1 - policy.shard_param_frac)
    policy.keep_cuda_chunk_mem = total * (1 - policy.offload_param_frac)
