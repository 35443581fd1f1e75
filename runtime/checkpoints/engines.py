"""What a rank holds of every parameter, for each kind of engine."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from runtime.checkpoints.held import Held, innermost, refusal
from runtime.checkpoints.parts import Block, Part, blocked_part, tensor_part, vocabulary_part, whole_part
from runtime.engines.engine import Engine
from runtime.engines.gemini import GeminiEngine
from runtime.engines.hybrid import HybridEngine
from runtime.states.mixed_adamw import MixedAdamW, divided

Shapes = Mapping[str, Sequence[int]]
_EMBEDDINGS = ("transformer.wte.weight", "model.embed_tokens.weight")
"""What families call the token embedding; a tied head that another stage has is a copy of it."""
_HEAD = "lm_head.weight"


def held_states(engine: Engine) -> list[Held]:
    """What this rank updates, parameter by parameter.

    Raises:
        PlanError: something is divided in a way that cannot be put together again.
    """
    shapes = engine.shapes
    if isinstance(engine, GeminiEngine):
        return list(_of_gemini(engine, shapes))
    return list(_of_hybrid(engine, shapes) if isinstance(engine, HybridEngine) else _of_grid(engine, shapes))


def use_loaded(engine: Engine) -> None:
    """Have the forward pass see what was written into the held states, where it has copies of its own."""
    if isinstance(engine, GeminiEngine):
        for chunk in engine.optimizer.chunk16_set:
            _refresh(chunk)


def _named(name: str, shapes: Shapes) -> tuple[str, bool]:
    """The name under which a parameter is saved, and whether it is a copy of another stage's."""
    if name in shapes:
        return name, False
    tied = next((one for one in _EMBEDDINGS if one in shapes), None)
    if name != _HEAD or tied is None:
        raise refusal(f"`{name}` is no parameter of the model as Transformers has it")
    return tied, True


def _of_hybrid(engine: HybridEngine, shapes: Shapes) -> Iterator[Held]:
    model, optimizer, plain = engine.model.unwrap(), engine.optimizer, innermost(engine.optimizer)
    owners = _owners(model)
    vocabulary = [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]
    in_halves = isinstance(plain, MixedAdamW)
    for updated, working in _updated(optimizer, plain):
        own_name, module = owners[id(working)]
        name, is_copy = _named(own_name, shapes)
        part = _hybrid_part(
            engine, working, module, shapes[name], in_vocabulary=any(module is one for one in vocabulary)
        )
        if part is None:
            raise refusal(f"`{name}` has shape {list(working.shape)} on a rank, and whole {list(shapes[name])}")
        start, stop = 0, working.numel()
        if engine.layout.zero_stage:
            shard = optimizer.pid_to_bucket_store[id(working)].local_rank
            start, stop = (min(number * updated.numel(), working.numel()) for number in (shard, shard + 1))
        yield Held(
            name=name,
            part=part,
            start=start,
            stop=stop,
            updated=updated,
            weights=partial(plain.weight, updated) if in_halves else lambda updated=updated: updated,  # type: ignore[misc]
            optimizer=plain,
            working=None if working is updated else working,
            take=partial(_take_halves, updated, working, start) if in_halves else None,
            is_copy=is_copy,
        )


def _take_halves(rest: Tensor, working: Tensor, start: int, own: Tensor) -> None:
    """Divide a part in float32 into what computes, all of it, and the rest of what this rank updates from ``start``."""
    upper, lower = divided(own.float().to(rest.device))
    working.detach().copy_(upper.view(working.shape))
    mine = lower.flatten()[start : start + rest.numel()]
    rest.view(-1)[: len(mine)].copy_(mine)
    rest.view(-1)[len(mine) :].zero_()


def _owners(model: nn.Module) -> dict[int, tuple[str, nn.Module]]:
    """By the identity of a parameter its first name and the module that has it."""
    found: dict[int, tuple[str, nn.Module]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            found.setdefault(id(parameter), (name, module))
    return found


def _updated(optimizer: Any, plain: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What the innermost optimizer updates, each with the parameter of the forward pass that it is."""
    of_zero: dict[int, Tensor] = getattr(optimizer, "master_to_working_param", {})
    of_precision: dict[Tensor, Tensor] = getattr(optimizer, "master_to_working_map", {})
    for group in plain.param_groups:
        for updated in group["params"]:
            yield updated, of_zero.get(id(updated), of_precision.get(updated, updated))


def _hybrid_part(
    engine: HybridEngine, working: Tensor, module: nn.Module, whole: Sequence[int], *, in_vocabulary: bool
) -> Part | None:
    rank, degree = engine.position.tensor, engine.layout.tensor_parallel
    if in_vocabulary:
        return vocabulary_part(working.shape, whole, rank)
    fused: Sequence[int] = getattr(module, "split_sizes", ())
    return tensor_part(working.shape, whole, rank=rank, degree=degree, fused=fused)


def _of_gemini(engine: GeminiEngine, shapes: Shapes) -> Iterator[Held]:
    """Every rank has a range of some chunks, in which parameters lie."""
    optimizer, plain = engine.optimizer, innermost(engine.optimizer)
    names = {id(parameter): name for name, parameter in engine.model.module.named_parameters()}
    for number, updated in optimizer.id_to_fake_params.items():
        parameter = optimizer.id_to_real_params[number]
        name, is_copy = _named(names[id(parameter)], shapes)
        if tuple(parameter.shape) != tuple(shapes[name]):
            raise refusal(f"`{name}` has shape {list(parameter.shape)} in chunks, and whole {list(shapes[name])}")
        _, start, length = optimizer.get_offsets(number)
        chunk, (begin, end) = optimizer.param_to_chunk16[updated], optimizer.param_to_range[updated]
        yield Held(
            name=name,
            part=whole_part(parameter.shape),
            start=start,
            stop=start + length,
            updated=updated,
            weights=lambda chunk=chunk, begin=begin, end=end: chunk.paired_chunk.payload[begin:end],  # type: ignore[misc]
            optimizer=plain,
            is_copy=is_copy,
        )


def _refresh(chunk: Any) -> None:
    """Round the float32 chunk into that of the forward pass, where each of them is now."""
    pair = chunk.paired_chunk
    chunk.payload.copy_(pair.payload)
    for one in (chunk, pair):
        # Of a pinned copy in host memory the library thinks that it is still right.
        one.optim_sync_flag, one.cpu_vis_flag = True, not one.is_gathered and one.cuda_shard is None


def _of_grid(engine: Any, shapes: Shapes) -> Iterator[Held]:
    optimizer, plain = engine.optimizer, innermost(engine.optimizer)
    names = {id(parameter): name for name, parameter in engine.model.named_parameters()}
    for updated, working in _updated(optimizer, plain):
        name, is_copy = _named(names[id(working)], shapes)
        part = _grid_part(engine, name, working, shapes[name])
        yield Held(
            name=name,
            part=part,
            start=0,
            stop=working.numel(),
            updated=updated,
            weights=lambda updated=updated: updated,  # type: ignore[misc]
            optimizer=plain,
            working=None if working is updated else working,
            is_copy=is_copy,
        )


def _grid_part(engine: Any, name: str, working: Tensor, whole: Any) -> Part:
    ranges = engine.shards.ranges(name, whole)
    axes: list[list[Block]] = [
        [(0, one.start, min(one.stop, length) - one.start)] for one, length in zip(ranges, whole, strict=True)
    ]
    if ".c_attn." in name:
        axes[-1] = list(_fused_blocks(ranges[-1], engine.model_spec.num_heads, whole[-1]))
    return blocked_part(working.shape, whole, axes)


def _fused_blocks(columns: slice, num_heads: int, width: int) -> Iterator[Block]:
    """Columns that a grid orders [head][q, k, v], and Transformers [q, k, v][head]."""
    size = width // 3 // num_heads
    for block in range(columns.start // size, columns.stop // size):
        head, kind = divmod(block, 3)
        yield block * size - columns.start, (kind * num_heads + head) * size, size
