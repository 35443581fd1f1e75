"""Recomputing activations of single transformer blocks."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from runtime.states.model import blocks_of


def recompute_blocks(model: Any, layers: Iterable[int], *, without_graph: bool = False) -> None:
    """Let ``layers`` keep only their input in forward and run forward again in backward.

    The second forward draws the same dropout: the states of the random number generators are kept. With
    ``without_graph`` the first forward makes no graph: under sequence parallelism Colossal-AI's products
    hold their gathered inputs in theirs, where no hook of the checkpoint finds them.
    """
    run = _without_graph if without_graph else partial(checkpoint, use_reentrant=False, preserve_rng_state=True)
    blocks: Any = blocks_of(model)
    for layer in layers:
        block = blocks[layer]
        block.forward = partial(run, block.forward)


def _without_graph(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    # This way of checkpointing takes no keyword arguments of the function.
    return checkpoint(partial(forward, **settings), *inputs, use_reentrant=True, preserve_rng_state=True)
