"""Experts that routers pick, in a layout as in one process.

Of scores that are nearly alike, rounding decides which is larger: the token goes to another expert, and gradients are
off by a whole token, which no tolerance tells from an error. So the tokens of a layout go where those of one process
went, and how many its own scores would have sent elsewhere is counted.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from runtime.engines.engine import Engine
from runtime.exchange import from_first
from runtime.patches.experts import routers
from runtime.patches.router_loss import pick

Picks = dict[str, NDArray[np.int64]]
"""Of one step: by the name of the block of experts, ``[sequences, tokens, experts of a token]``."""


def record_picks(model: nn.Module, top_k: int) -> Picks:
    """What to fill with the picks of a model of Transformers in every forward; the caller empties it for a step."""
    found: Picks = {}

    def take(name: str, states: Tensor, scores: Tensor) -> None:
        own = pick(scores.softmax(dim=-1, dtype=torch.float), top_k).view(*states.shape[:2], top_k).numpy()
        found[name] = np.concatenate([found[name], own]) if name in found else own

    for name, block in routers(model):
        block.register_forward_hook(lambda _, inputs, outputs, name=name: take(name, inputs[0], outputs[1]))
    return found


def follow(engine: Engine, steps: Sequence[Picks]) -> list[list[int]]:
    """Have an engine's tokens go where those of ``steps`` went; for each step ``[otherwise, picks]``, filled later.

    Blocks of the library's own, where a workaround is switched off, go on picking themselves.
    """
    counts = [[0, 0] for _ in steps]
    for name, block in routers(engine.model.unwrap()) if any(steps) else ():
        if hasattr(block, "pick"):
            block.pick = _Following([step[name] for step in steps], engine, counts)
    return counts


class _Following:
    """Picks of one layer: the micro batches come in their order, and those of a recomputed block again."""

    def __init__(self, steps: Sequence[NDArray[np.int64]], engine: Engine, counts: list[list[int]]) -> None:
        size = engine.layout.micro_batch
        self._waiting = [
            (number, torch.from_numpy(picks[engine.rows][first : first + size]).flatten(0, 1).to(engine.device))
            for number, picks in enumerate(steps)
            for first in range(0, size * engine.num_microbatches, size)
        ]
        self._known: dict[bytes, Tensor] = {}
        self._counts = counts

    def __call__(self, probabilities: Tensor, top_k: int) -> Tensor:
        key = probabilities.detach().cpu().numpy().tobytes()
        if key not in self._known:
            step, wanted = self._waiting.pop(0)
            own = pick(probabilities, top_k)
            self._counts[step][0] += int((own.sort(dim=-1).values != wanted.sort(dim=-1).values).any(dim=-1).sum())
            self._counts[step][1] += len(wanted)
            self._known[key] = wanted
        return self._known[key]


def everyone_learns(steps: Sequence[Picks], group: dist.ProcessGroup) -> list[Picks]:
    """What rank 0 found, on all ranks."""
    own = [{name: picks.tolist() for name, picks in step.items()} for step in steps]
    told = from_first(own, list[dict[str, list[list[list[int]]]]], group)
    return [{name: np.array(picks, dtype=np.int64) for name, picks in step.items()} for step in told]
