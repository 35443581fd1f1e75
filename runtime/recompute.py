"""How transformer blocks run: recomputed in backward or not, and for which documents."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint

from runtime.states.documents import Documents
from runtime.states.model import blocks_of


def recompute_blocks(
    model: Any, layers: Collection[int], *, without_graph: bool = False, documents: Documents | None = None
) -> None:
    """Let ``layers`` keep only their input in forward and run forward again in backward.

    The second forward draws the same dropout: the states of the random number generators are kept. With
    ``without_graph`` the first forward makes no graph: under sequence parallelism Colossal-AI's products
    hold their gathered inputs in theirs, where no hook of the checkpoint finds them. With ``documents`` all blocks
    keep them apart, those of the same micro batch in both forwards.
    """
    run = _without_graph if without_graph else partial(checkpoint, use_reentrant=False, preserve_rng_state=True)
    blocks: Any = blocks_of(model)
    for layer, block in enumerate(blocks):
        if documents is not None:
            attention: Any = block.attn if hasattr(block, "attn") else block.self_attn
            attention.documents = documents
            block.forward = partial(documents.during, block.forward)
        if layer in layers:
            block.forward = partial(run, block.forward)
        if documents is not None:
            block.forward = partial(documents.handing, block.forward)
    if documents is not None:
        model.documents = documents


def _without_graph(forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
    # This way of checkpointing takes no keyword arguments of the function.
    return checkpoint(partial(forward, **settings), *inputs, use_reentrant=True, preserve_rng_state=True)
