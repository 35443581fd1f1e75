"""Gradients of undivided parameters, as the update of a step takes them, whatever divided them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from runtime.engines.engine import Engine
from runtime.engines.gemini import GeminiEngine
from runtime.engines.hybrid import HybridEngine
from runtime.states.families import FAMILIES

Gradients = dict[str, NDArray[np.float32]]
"""By the name of the parameter in Transformers; padding of the vocabulary is still there."""


def watch_gradients(engine: Engine) -> list[Gradients]:
    """A list to which every step of ``engine`` adds the gradients of this rank's parameters.

    They are taken where the innermost optimizer begins its update, so everything that sums, divides
    or scales gradients before is in them. What tensor parallelism, ZeRO or chunks divide is put
    together; of everything else a rank shows its own copy. Every rank has to watch.
    """
    found: list[Gradients] = []

    def take(*_: object) -> None:
        found.append({name: gradient.detach().float().cpu().numpy().copy() for name, gradient in _gradients(engine)})

    engine.optimizer.optim.register_step_pre_hook(take)
    return found


def _gradients(engine: Engine) -> Iterator[tuple[str, Tensor]]:
    if isinstance(engine, GeminiEngine):
        return _of_chunks(engine)
    if isinstance(engine, HybridEngine):
        return _of_shards(engine)
    grid: Any = engine
    return iter(grid.full_gradients().items())


def _of_shards(engine: HybridEngine) -> Iterator[tuple[str, Tensor]]:
    """Put together what ZeRO divides over data parallelism, then what tensor parallelism divides."""
    model = engine.model.unwrap()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    family = FAMILIES[model.config.model_type]
    optimizer: Any = engine.optimizer
    # Without ZeRO, mixed precision updates a float32 copy of each parameter.
    working_of = getattr(optimizer, "master_to_working_map", {})
    scale = getattr(optimizer.optim, "gradient_scale", 1.0)
    for group in optimizer.optim.param_groups:
        for updated in group["params"]:
            if updated.grad is None:
                continue
            working, gradient = working_of.get(updated, updated), updated.grad.float() * scale
            if engine.layout.zero_stage:
                working = optimizer.master_to_working_param[id(updated)]
                parts = _gather(gradient.to(engine.device), optimizer.pid_to_grad_store[id(working)].torch_pg)
                gradient = torch.cat(parts)[: working.numel()].view_as(working)
            name = names[id(working)]
            yield name, _whole(name, gradient, family.split_axis(name), engine.plugin.tp_group)


def _of_chunks(engine: GeminiEngine) -> Iterator[tuple[str, Tensor]]:
    """Put together what Gemini divides: every rank has a range of some chunks, in which parameters lie."""
    optimizer: Any = engine.optimizer
    names = {id(parameter): name for name, parameter in engine.model.module.named_parameters()}
    for number, parameter in optimizer.id_to_real_params.items():
        info = optimizer.chunk_manager.get_chunk(parameter).tensors_info[parameter]
        whole = torch.zeros(info.end - info.offset, device=engine.device)
        _, start, length = optimizer.get_offsets(number)
        if length > 0:
            whole[start : start + length] = optimizer.id_to_fake_params[number].grad.to(engine.device)
        dist.all_reduce(whole)
        yield names[id(parameter)], whole.view(parameter.shape)


def _gather(own: Tensor, group: Any) -> list[Tensor]:
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, own.contiguous(), group=group)
    return parts


def _whole(name: str, own: Tensor, axis: int | None, group: Any) -> Tensor:
    """Of the parts of a tensor-parallel group, divided along ``axis``; the library's own gathering needs a GPU."""
    if axis is None or dist.get_world_size(group) == 1:
        return own
    parts = _gather(own, group)
    if ".c_attn." in name:  # queries, keys and values are divided one by one
        thirds = zip(*(part.chunk(3, dim=-1) for part in parts), strict=True)
        parts = [torch.cat(third, dim=-1) for third in thirds]
    return torch.cat(parts, dim=axis)
