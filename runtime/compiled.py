"""Blocks and loss compiled by torch.compile, one region each, so that it takes seconds however many layers there are.

Collectives stay outside of what is compiled: the layers of Colossal-AI that talk to other ranks run as they are, and
what is between them is compiled.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from runtime.patches import compiled_products, rotary, weight_gradients
from runtime.patches.loss_head import COMPILED
from runtime.states.documents import Documents
from runtime.states.model import blocks_of

_RUN_AS_THEY_ARE = (compiled_products.LIBRARY, weight_gradients.__name__)
"""Modules of layers that compiled regions call as they are."""
REMAKES = "ban_recompute_materialized_backward"
"""Of torch._functorch.config: whether compiled regions keep what products in backward read."""
WHOLE_ROWS = 8192
"""Elements of the longest row that a norm holds whole: 32 for each of a block's 256 threads."""
_WHOLE: Literal[2] = 2
"""Of torch._inductor.config.triton.multi_kernel: rows of reductions whole, up to 16,384 elements instead of 1,024."""
_IN_PARTS: Literal[0] = 0
_LEFT_OUT = "is_left_out"
"""Attribute of a function that compiled regions call as it is."""


def can_compile(device: torch.device) -> bool:
    """Whether every rank has what torch.compile needs: a compiler, and Triton for GPUs; every rank has to ask.

    And a PyTorch that can be told what backward makes again: see :func:`compile_regions`.
    """
    from torch._functorch import config

    found = any(map(shutil.which, ("cc", "gcc", "clang", "g++"))) and hasattr(config, REMAKES)
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        found = found and has_triton()
    everywhere = torch.tensor(float(found), device=device)
    dist.all_reduce(everywhere, dist.ReduceOp.MIN)
    return bool(everywhere > 0)


@contextmanager
def without_ddp() -> Iterator[None]:
    """Boost a model without DDP, for a single data-parallel rank: it would copy every gradient to reduce it."""
    from colossalai.booster.plugin import hybrid_parallel_plugin as library

    wrapper = library.DDP
    library.DDP = lambda module, **_: module
    try:
        yield
    finally:
        library.DDP = wrapper


def compile_regions(model: Any, *, recomputes_pointwise: bool = False, defers: bool = False) -> None:
    """Compile every block of ``model``, all to the same code, and its loss; to be called before anything wraps blocks.

    Backward recomputes a compiled block as it does any other. One that ``recomputes_pointwise`` keeps no output of a
    norm or an activation function: PyTorch keeps them for products in backward, which fuse with nothing, unless told
    that it may make them again (torch/_functorch/partitioners.py, ban_recompute_materialized_backward). With ``defers``
    products may leave the gradients of their weights to somebody else.

    Dropout runs as it does uncompiled, and draws the same numbers: a kernel of Triton's draws one where PyTorch's own
    draws four. Norms hold whole rows at a time up to ``WHOLE_ROWS`` elements, which is one pass over them, in the same
    order on every rank.
    """
    from torch._functorch import config
    from torch._inductor import config as inductor

    setattr(config, REMAKES, not recomputes_pointwise)
    inductor.fallback_random = True
    inductor.triton.multi_kernel = _WHOLE if model.config.hidden_size <= WHOLE_ROWS else _IN_PARTS
    setattr(model, COMPILED, True)
    for block in blocks_of(model):
        block.forward = torch.compile(block.forward, dynamic=False)
        if defers:
            compiled_products.let_defer(block)


def leave_out_collectives(model: nn.Module) -> None:
    """Keep what talks to other ranks out of compiled regions; to be called after Colossal-AI has put it there.

    And attention to documents, whose shapes are others in every micro batch; and products that put gradients off,
    which backward does in Python, and whose inputs a compiled region could write something else to by then.
    """
    # Of classes, not of modules, so that all blocks still run the same code.
    parts: list[tuple[Any, str]] = [(rotary, "all_to_all_comm"), (Documents, "attend")]
    kinds = {type(module) for module in model.modules()}
    parts += [(kind, "forward") for kind in kinds if kind.__module__.startswith(_RUN_AS_THEY_ARE)]
    for owner, name in parts:
        own = vars(owner).get(name, getattr(owner, name))
        if not getattr(own, _LEFT_OUT, False):
            left: Any = torch.compiler.disable(own)  # type: ignore[no-untyped-call]
            setattr(left, _LEFT_OUT, True)
            setattr(owner, name, left)
