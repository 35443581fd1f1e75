"""Recomputing activations of single transformer blocks."""

from collections.abc import Iterable
from functools import partial

from torch.utils.checkpoint import checkpoint
from transformers import GPT2LMHeadModel


def recompute_blocks(model: GPT2LMHeadModel, layers: Iterable[int]) -> None:
    """Let ``layers`` keep only their input in forward and run forward again in backward.

    The second forward draws the same dropout: the states of the random number generators are kept.
    """
    for layer in layers:
        block = model.transformer.h[layer]
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=True)
