"""How a grid divides each parameter of GPT-2: the part a rank holds, and the whole from the parts."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from planner.specs import ModelSpec
from runtime.grid.mesh import Axes, Grid, Mesh


@dataclass(frozen=True)
class Sharding:
    """Axes that divide each dimension of a parameter, slowest first; the rest of the grid has copies."""

    dimensions: tuple[Axes, ...]

    def replicas(self, grid: Grid) -> Axes:
        """Axes along which the ranks hold the same part, and each sees the gradient of its own rows."""
        used = set(itertools.chain(*self.dimensions))
        return tuple(axis for axis in grid.axes if axis not in used)

    def part(self, shape: torch.Size, grid: Grid, coordinates: Mapping[str, int]) -> tuple[slice, ...]:
        """Where the part of the rank at ``coordinates`` lies in a parameter of ``shape``."""
        slices = []
        for length, axes in zip(shape, self.dimensions, strict=True):
            index, parts = 0, 1
            for axis in axes:
                index, parts = index * grid.axes[axis] + coordinates[axis], parts * grid.axes[axis]
            size = length // parts
            slices.append(slice(index * size, (index + 1) * size))
        return tuple(slices)


def sharding_of(name: str, grid: Grid) -> Sharding:
    """The sharding of the parameter that Transformers' GPT-2 calls ``name``."""
    outer, inner = grid.outer, grid.inner
    if name in ("transformer.wte.weight", "lm_head.weight"):
        return Sharding((grid.vocabulary, (outer.hidden,)))
    if name == "transformer.wpe.weight":
        return Sharding(((), (outer.hidden,)))
    first = ".c_attn." in name or ".c_fc." in name
    if name.endswith(".bias"):
        return Sharding(((inner.hidden if first else outer.hidden,),))
    if ".ln_" in name:
        return Sharding(((outer.hidden,),))
    if first:
        return Sharding((outer.contraction, (inner.hidden,)))
    return Sharding((inner.contraction, (outer.hidden,)))


def copy_axes(name: str, grid: Grid) -> Axes:
    """Axes, data parallelism among them, whose ranks hold copies of the parameter ``name``."""
    return ("data", *sharding_of(name, grid).replicas(grid))


def all_copy_axes(grid: Grid) -> list[Axes]:
    """What :func:`copy_axes` gives for any parameter, in a fixed order."""
    kinds = ("wte.weight", "wpe.weight", "h.0.mlp.c_fc.weight", "h.0.mlp.c_proj.weight", "h.0.mlp.c_fc.bias")
    return list(dict.fromkeys(copy_axes(f"transformer.{kind}", grid) for kind in kinds))


class Shards:
    """Cuts parameters of a model for this rank of a mesh, and puts them together again."""

    def __init__(self, mesh: Mesh, spec: ModelSpec, vocab_rows: int) -> None:
        """``vocab_rows`` are the rows of embedding and head, padding included."""
        self._mesh, self._spec, self._vocab_rows = mesh, spec, vocab_rows
        self._group = mesh.group(*mesh.tensor_axes)

    def cut(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a parameter (or gradient) of the unsharded model."""
        whole = self._to_grid(name, whole)
        sharding = sharding_of(name, self._mesh.grid)
        return whole[sharding.part(whole.shape, self._mesh.grid, self._mesh.coordinates)].clone(
            memory_format=torch.contiguous_format
        )

    def ranges(self, name: str, shape: torch.Size) -> tuple[slice, ...]:
        """Where this rank's part lies in a parameter of ``shape`` as the grid orders and pads it."""
        if name in ("transformer.wte.weight", "lm_head.weight"):
            shape = torch.Size((self._vocab_rows, *shape[1:]))
        return sharding_of(name, self._mesh.grid).part(shape, self._mesh.grid, self._mesh.coordinates)

    def whole(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters (or gradients) as in the unsharded model; every rank of the grid has to ask for the same."""
        together = torch.cat([part.flatten() for part in parts.values()])
        gathered = [torch.empty_like(together) for _ in range(dist.get_world_size(self._group))]
        dist.all_gather(gathered, together, group=self._group)
        lengths = [part.numel() for part in parts.values()]
        of_ranks = [torch.split(one, lengths) for one in gathered]
        return {
            name: self._assembled(name, [pieces[index].view_as(part) for pieces in of_ranks])
            for index, (name, part) in enumerate(parts.items())
        }

    def _assembled(self, name: str, parts: list[Tensor]) -> Tensor:
        grid, sharding = self._mesh.grid, sharding_of(name, self._mesh.grid)
        lengths = zip(parts[0].shape, sharding.dimensions, strict=True)
        whole = parts[0].new_empty([length * self._mesh.size(axes) for length, axes in lengths])
        for place, part in zip(itertools.product(*map(range, grid.axes.values())), parts, strict=True):
            coordinates = dict(zip(grid.axes, place, strict=True))
            # Of copies, those of this rank's own layer of the grid: another's must not hide a difference.
            if any(coordinates[axis] != self._mesh.coordinates[axis] for axis in sharding.replicas(grid)):
                continue
            whole[sharding.part(whole.shape, grid, coordinates)] = part
        return self._from_grid(name, whole)

    def _to_grid(self, name: str, whole: Tensor) -> Tensor:
        if name in ("transformer.wte.weight", "lm_head.weight"):
            return torch.cat((whole, whole.new_zeros(self._vocab_rows - len(whole), whole.shape[1])))
        # Transformers orders the columns [q, k, v][head]; a rank needs all three of its own heads.
        return self._reordered(name, whole, lambda heads: (3, heads))

    def _from_grid(self, name: str, whole: Tensor) -> Tensor:
        if name in ("transformer.wte.weight", "lm_head.weight"):
            return whole[: self._spec.vocab_size]
        return self._reordered(name, whole, lambda heads: (heads, 3))

    def _reordered(self, name: str, whole: Tensor, order: Callable[[int], tuple[int, int]]) -> Tensor:
        if ".c_attn." not in name:
            return whole
        blocks = whole.reshape(*whole.shape[:-1], *order(self._spec.num_heads), -1)
        return blocks.transpose(-3, -2).flatten(-3)
