"""The grid of a tensor-parallel group: its axes, what is split over which, and the process groups.

Colossal-AI's names for the axes of a grid, slowest first, which is also the order of the ranks:

- 2D: ``row`` and ``col``, a square;
- 2.5D: ``depth`` copies of such a square;
- 3D: ``output``, ``input`` and ``weight``, a cube.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from colossalai.cluster import ProcessGroupMesh
from colossalai.legacy.context.parallel_mode import ParallelMode
from colossalai.legacy.core import global_context
from colossalai.legacy.global_variables import tensor_parallel_env
from torch import Tensor

from planner.layouts.degrees import edge_of
from planner.layouts.layout import Layout, columns_of
from planner.specs import TensorMode

Axes = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a grid divides activations of shape ``[batch, sequence, hidden]``."""

    batch: Axes
    """Axes over which sequences are divided, slowest first."""
    hidden: str
    contraction: Axes
    """Axes that divide the rows of a weight which is multiplied with such activations."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One tensor mode with its sizes. Every rank holds another part of every activation."""

    mode: TensorMode
    axes: dict[str, int]
    """Size of each axis, slowest first."""
    outer: Split
    """Of the residual stream: input of the first product of attention and of the MLP."""
    inner: Split
    """Between the two products of attention and of the MLP."""
    vocabulary: Axes
    """Axes that divide the rows of the embedding and of the loss head."""

    @property
    def edge(self) -> int:
        """Ranks along an axis over which weights are divided."""
        return self.axes[self.outer.hidden]


def grid_of(layout: Layout) -> Grid:
    """The grid of a layout in mode 2D, 2.5D or 3D."""
    edge = int(edge_of(columns_of(layout))[0])
    if layout.tensor_mode == "3d":
        # Products swap the roles of input and output, so two in a row restore them.
        return Grid(
            mode="3d",
            axes={"output": edge, "input": edge, "weight": edge},
            outer=Split(batch=("weight", "input"), hidden="output", contraction=("output", "weight")),
            inner=Split(batch=("weight", "output"), hidden="input", contraction=("input", "weight")),
            vocabulary=("input", "weight"),
        )
    square = {"row": edge, "col": edge}
    deep = layout.tensor_mode == "2.5d"
    split = Split(batch=("depth", "row") if deep else ("row",), hidden="col", contraction=("row",))
    axes = {"depth": layout.tensor_depth, **square} if deep else square
    return Grid(mode=layout.tensor_mode, axes=axes, outer=split, inner=split, vocabulary=("row",))


_LEGACY_GROUPS = {
    ("2d", "row"): ParallelMode.PARALLEL_2D_COL,
    ("2d", "col"): ParallelMode.PARALLEL_2D_ROW,
    ("2.5d", "row"): ParallelMode.PARALLEL_2P5D_COL,
    ("2.5d", "col"): ParallelMode.PARALLEL_2P5D_ROW,
    ("3d", "input"): ParallelMode.PARALLEL_3D_INPUT,
    ("3d", "output"): ParallelMode.PARALLEL_3D_OUTPUT,
}
"""Groups that the layers have anyway: a communicator of its own would take device memory."""


class Mesh:
    """Where this rank stands among data parallelism, pipeline and grid, and its process groups."""

    def __init__(self, layout: Layout) -> None:
        """Create the groups that Colossal-AI's layers look up; every rank has to take part."""
        self.grid = grid_of(layout)
        self.sizes = {"data": layout.data_parallel, "stage": layout.pipeline_parallel, **self.grid.axes}
        self._axes = list(self.sizes)
        self.process_groups = ProcessGroupMesh(*self.sizes.values())
        self.coordinates = dict(zip(self._axes, map(int, self.process_groups.coordinate()), strict=True))
        _join(layout)

    @property
    def tensor_axes(self) -> Axes:
        """The axes of the grid."""
        return tuple(self.grid.axes)

    def size(self, axes: Sequence[str]) -> int:
        """Number of ranks along ``axes`` together."""
        size = 1
        for axis in axes:
            size *= self.sizes[axis]
        return size

    def group(self, *axes: str) -> dist.ProcessGroup:
        """The ranks that differ from this one along ``axes`` only; every rank has to ask for it."""
        existing = _LEGACY_GROUPS.get((self.grid.mode, axes[0])) if len(axes) == 1 else None
        if existing is not None:
            own: dist.ProcessGroup = global_context.get_group(existing)
            return own
        numbers = sorted(self._axes.index(axis) for axis in axes)
        group: dist.ProcessGroup = self.process_groups.get_group_along_axis(numbers)
        return group

    def ends(self) -> dist.ProcessGroup | None:
        """First and last stage of this rank's pipeline; ``None`` in between."""
        stages = self.sizes["stage"]
        group: Any = self.process_groups.create_group_along_axis(self._axes.index("stage"), [0, stages - 1])
        return group if isinstance(group, dist.ProcessGroup) else None

    def part(self, rows: Tensor, axes: Axes) -> Tensor:
        """This rank's share of ``rows`` (first dimension) where ``axes`` divide them, slowest first."""
        for axis in axes:
            rows = rows.chunk(self.sizes[axis])[self.coordinates[axis]]
        return rows


def _join(layout: Layout) -> None:
    """Set up the global context in which the legacy layers find their groups.

    ``legacy.launch`` would do it, but it insists on opening the default group itself, at an address
    that Python refuses (it puts any host in brackets), and on random states of CUDA.
    """
    _forget()
    world = list(range(dist.get_world_size()))
    context = global_context
    context._register_dist(dist.get_rank(), len(world), dist.GroupMember.WORLD, None, world, ParallelMode.GLOBAL)
    context.add_global_rank(ParallelMode.GLOBAL, dist.get_rank())
    tensor: dict[str, Any] = {"size": layout.tensor_parallel, "mode": layout.tensor_mode}
    if layout.tensor_mode == "2.5d":
        tensor["depth"] = layout.tensor_depth
    context.load_config({"parallel": {"pipeline": layout.pipeline_parallel, "tensor": tensor}})
    context.init_parallel_groups()


def _forget() -> None:
    # The context is global: a second model in the same process has to start from nothing.
    for registry in ("_global_ranks", "_local_ranks", "_world_sizes", "_groups", "_cpu_groups", "_ranks_in_group"):
        getattr(global_context, registry).clear()
    tensor_parallel_env.load()
