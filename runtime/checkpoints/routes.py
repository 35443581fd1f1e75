"""Which rank puts a parameter together and writes it, and from which ranks it gets what."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from planner.layouts.layout import Layout
from runtime.checkpoints.held import Held, refusal
from runtime.checkpoints.parts import Part
from runtime.exchange import of_everyone
from runtime.states.placement import Position

Region = tuple[Part, int, int]
"""A range of the elements of a part."""


class Source(NamedTuple):
    """A range of a part of a parameter, and the rank that gives it."""

    rank: int
    part: Part
    start: int
    stop: int


class Route(NamedTuple):
    """One parameter: the rank that puts it together, and what from."""

    name: str
    shape: tuple[int, ...]
    owner: int
    sources: tuple[Source, ...]


class Stage(NamedTuple):
    """Ranks of one pipeline stage, with a group of their own that goes through host memory."""

    ranks: list[int]
    group: dist.ProcessGroup


def stage_group(layout: Layout) -> Stage:
    """The stage of this rank; every rank of the process group has to ask."""
    places = [Position.of(rank, layout).stage for rank in range(dist.get_world_size())]
    stages = [[rank for rank, stage in enumerate(places) if stage == number] for number in range(max(places) + 1)]
    groups = [dist.new_group(ranks, backend="gloo") for ranks in stages]
    own = places[dist.get_rank()]
    return Stage(stages[own], groups[own])


def routes(held: Sequence[Held], stage: Stage) -> list[Route]:
    """One for each parameter that this stage saves, in the same order on all its ranks, which have to ask together.

    A range that several ranks hold comes from the one next to the owner. Owners are chosen so that all ranks write
    about equally many bytes.

    Raises:
        PlanError: what the ranks hold of a parameter does not make it whole.
    """
    own = [(one.name, (one.part, one.start, one.stop)) for one in held if not one.is_copy and len(one)]
    of_ranks = of_everyone(own, list[tuple[str, Region]], stage.group)
    holders: dict[str, dict[Region, list[int]]] = {}
    for rank, table in zip(stage.ranks, of_ranks, strict=True):
        for name, region in table:
            holders.setdefault(name, {}).setdefault(region, []).append(rank)
    shapes = {name: next(iter(regions))[0].whole for name, regions in holders.items()}
    owners = _owners(shapes, stage.ranks)
    found = [_route(name, shapes[name], owners[name], regions) for name, regions in holders.items()]
    for route in found:
        _check_complete(route)
    return found


def _owners(shapes: Mapping[str, tuple[int, ...]], ranks: Sequence[int]) -> dict[str, int]:
    """The largest first, each to the rank that has least."""
    load, owners = dict.fromkeys(ranks, 0), {}
    for name in sorted(shapes, key=lambda name: (-math.prod(shapes[name]), name)):
        owners[name] = min(load, key=lambda rank: (load[rank], rank))
        load[owners[name]] += math.prod(shapes[name])
    return owners


def _route(name: str, shape: tuple[int, ...], owner: int, regions: Mapping[Region, list[int]]) -> Route:
    sources = (
        Source(min(ranks, key=lambda rank: (abs(rank - owner), rank)), part, start, stop)
        for (part, start, stop), ranks in regions.items()
    )
    return Route(name, shape, owner, tuple(sources))


def _check_complete(route: Route) -> None:
    parts: dict[Part, list[tuple[int, int]]] = {}
    for source in route.sources:
        parts.setdefault(source.part, []).append((source.start, source.stop))
    for part, ranges in parts.items():
        edge = 0
        for start, stop in sorted(ranges):
            if start != edge:
                raise refusal(f"elements {edge} to {start} of a part of `{route.name}` are on no rank, or on two")
            edge = stop
        if edge != part.num_elements:
            raise refusal(f"elements {edge} to {part.num_elements} of a part of `{route.name}` are on no rank")
    filled = sum(part.num_filled for part in parts)
    if filled != math.prod(route.shape):
        raise refusal(f"the parts of `{route.name}` make {filled} of its {math.prod(route.shape)} elements")


def assemble(route: Route, own: Callable[[], Tensor], group: dist.ProcessGroup) -> Tensor | None:
    """Put one tensor together on its owner, in host memory; ``None`` elsewhere. Every rank of the stage calls it.

    ``own`` gives this rank's range of it, flat, and is asked only where that is sent or kept.
    """
    me = dist.get_rank()
    if me == route.owner:
        return _joined(route, _received(route, own, group))
    if any(source.rank == me for source in route.sources):
        dist.send(own().detach().to("cpu", torch.float32).contiguous(), route.owner, group=group)
    return None


def _received(route: Route, own: Callable[[], Tensor], group: dist.ProcessGroup) -> dict[Part, Tensor]:
    """The tensor of each part, flat."""
    buffers = {source.part: torch.empty(source.part.num_elements) for source in route.sources}
    arriving = []
    for rank, part, start, stop in route.sources:
        target = buffers[part][start:stop]
        if rank == dist.get_rank():
            target.copy_(own())
        else:
            arriving.append(dist.irecv(target, rank, group=group))
    for work in filter(None, arriving):
        work.wait()
    return buffers


def _joined(route: Route, buffers: dict[Part, Tensor]) -> Tensor:
    first = next(iter(buffers))
    if first.is_whole:
        return buffers[first].view(route.shape)
    whole = torch.empty(route.shape)
    for part, buffer in buffers.items():
        part.put(buffer, whole)
    return whole
