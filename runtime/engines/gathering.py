"""Weights that ranks have updated parts of, gathered while the next forward is already running.

Colossal-AI 0.5.0 gathers all of them before a step ends (zero/low_level/low_level_optim.py:599-635). Its
``overlap_allgather`` makes another class of every parameter, whose operations torch.compile does not follow.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor, nn

from runtime.engines.launches import all_gather, at_once
from runtime.states.families import FAMILIES
from runtime.states.model import blocks_of

AHEAD = 2
"""Gathers that are started before they are needed.

With one queue of launches to the device, which Colossal-AI sets (CUDA_DEVICE_MAX_CONNECTIONS=1, initialize.py:10), a
gather that waits for the one before it holds up what is launched after it, so that not all can be started at once.
"""


class Use(NamedTuple):
    """Parameters that a module is the first to read."""

    module: nn.Module
    parameters: Sequence[Tensor]


def uses_of(boosted: Any, updated: Sequence[Tensor]) -> list[Use]:
    """The ``updated`` parameters of a boosted model on this rank, in the order in which forward reads them.

    Those of the embeddings are ready before forward begins, those of each block before it, the rest before the final
    norm, which is the last module before the loss.
    """
    model, wanted = boosted.unwrap(), set(updated)
    family = FAMILIES[model.config.model_type]
    names = {name: one for name, one in model.named_parameters() if one in wanted}
    first = [names.pop(name) for name in (family.embedding, family.positions) if name in names]
    uses = [Use(boosted, first)]
    for block in blocks_of(model):
        own = [one for one in block.parameters() if one in wanted]
        if own:
            uses.append(Use(block, own))
    found = {one for use in uses for one in use.parameters}
    last = [one for one in names.values() if one not in found]
    norm = model.get_submodule(family.final_norm) if last else None
    if norm is not None and any(one in set(last) for one in norm.parameters()):
        uses.append(Use(norm, last))
    else:
        first.extend(last)
    return [use for use in uses if use.parameters]


class Gathering:
    """Gathers of the weights of each use, of which a rank has its own part already."""

    def __init__(self, uses: Sequence[Use], wholes: dict[Tensor, Tensor], group: dist.ProcessGroup) -> None:
        """Have the modules of ``uses`` wait for what they read.

        Args:
            uses: in order.
            wholes: of every parameter the flat tensor that it lies in, filled up to equal parts.
            group: the ranks that have the parts.
        """
        self._wholes = [[wholes[one] for one in use.parameters] for use in uses]
        self._group, self._size, self._rank = group, dist.get_world_size(group), dist.get_rank(group)
        self._started: list[Any] = []
        self._ready = len(uses)
        for place, use in enumerate(uses):
            use.module.register_forward_pre_hook(lambda *_, place=place: self._need(place))

    def start(self) -> None:
        """Gather from now on: the first of them at once, the others as forward comes near them."""
        self._started, self._ready = [], 0
        self._start(AHEAD)

    def complete(self) -> None:
        """Have what follows find all weights whole."""
        self._need(len(self._wholes) - 1)

    def _start(self, count: int) -> None:
        for wholes in self._wholes[len(self._started) : count]:
            with at_once(self._group) as gathering:
                for whole in wholes:
                    all_gather(whole, whole.chunk(self._size)[self._rank], group=self._group)
            self._started.append(gathering)

    def _need(self, place: int) -> None:
        while self._ready <= place:
            self._start(self._ready + 1 + AHEAD)
            self._started[self._ready].wait()
            self._ready += 1
