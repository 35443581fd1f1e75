"""A layout: how one training step is divided over the devices.

:class:`Layout` is one layout, as a plan freezes it. :class:`LayoutColumns` holds many, one NumPy
array per field, so that rules and cost formulas are written once and serve one layout or a
million.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Self, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from planner.specs import Fraction, OffloadTier, Precision, Schedule, TensorMode

TENSOR_MODES: tuple[TensorMode, ...] = ("none", "1d", "2d", "2.5d", "3d")
SCHEDULES: tuple[Schedule, ...] = ("none", "1f1b", "interleaved")
OFFLOAD_TIERS: tuple[OffloadTier, ...] = ("none", "cpu", "nvme")
RECOMPUTES = ("none", "all", "some", "free")
"""What the stages recompute: no layer, all of theirs, on each stage some but not all, or anything."""
NO_RECOMPUTE, FULL_RECOMPUTE, SOME_RECOMPUTE, FREE_RECOMPUTE = range(len(RECOMPUTES))
SHARDS_WEIGHTS = 3
"""The ZeRO stage that divides weights over data-parallel ranks too."""

Result = TypeVar("Result")

Degree = Annotated[int, Meta(ge=1)]
LayerCount = Annotated[int, Meta(ge=0)]


class Offload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which share of the states leaves the device, and where to."""

    optimizer: Fraction = 0.0
    parameters: Fraction = 0.0
    tier: OffloadTier = "none"

    @property
    def words(self) -> str:
        """What goes where; weights go to host memory at most."""
        if self.tier == "none":
            return "none"
        optimizer, weights = f"{self.optimizer:.0%} of the optimizer", f"{self.parameters:.0%} of the weights"
        if self.parameters == 0:
            return f"{optimizer} to {self.tier}"
        return f"{optimizer} and {weights} to cpu" if self.tier == "cpu" else f"{optimizer} to nvme, {weights} to cpu"


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One layout. The constructor does not validate: :func:`planner.rules.violations` does."""

    tensor_mode: TensorMode
    tensor_parallel: Degree
    tensor_depth: Degree
    """Depth of the 2.5D grid; 1 in every other mode."""
    pipeline_parallel: Degree
    data_parallel: Degree
    zero_stage: Annotated[int, Meta(ge=0, le=3)]
    sequence_parallel: bool
    micro_batch: Degree
    """Sequences that one data-parallel rank pushes through the model at once."""
    num_microbatches: Degree
    """Micro batches of one optimizer step on each data-parallel rank."""
    schedule: Schedule
    num_model_chunks: Degree
    layers_per_stage: tuple[LayerCount, ...]
    recompute_layers_per_stage: tuple[LayerCount, ...]
    offload: Offload
    precision: Precision

    @property
    def num_devices(self) -> int:
        """Devices the layout uses: TP x PP x DP."""
        return self.tensor_parallel * self.pipeline_parallel * self.data_parallel

    @property
    def global_batch(self) -> int:
        """Sequences of one optimizer step over all data-parallel ranks."""
        return self.micro_batch * self.num_microbatches * self.data_parallel


@dataclass(frozen=True, kw_only=True)
class LayoutColumns:
    """Layouts without their layers per stage, as equally long integer columns.

    ``tensor_mode``, ``schedule`` and ``offload_tier`` hold indices into :data:`TENSOR_MODES`,
    :data:`SCHEDULES` and :data:`OFFLOAD_TIERS`, and ``recompute`` indices into :data:`RECOMPUTES`.
    The precision belongs to the problem, not to a column.
    """

    tensor_mode: NDArray[np.int64]
    tensor_parallel: NDArray[np.int64]
    tensor_depth: NDArray[np.int64]
    pipeline_parallel: NDArray[np.int64]
    data_parallel: NDArray[np.int64]
    zero_stage: NDArray[np.int64]
    sequence_parallel: NDArray[np.int64]
    micro_batch: NDArray[np.int64]
    num_microbatches: NDArray[np.int64]
    schedule: NDArray[np.int64]
    num_model_chunks: NDArray[np.int64]
    recompute: NDArray[np.int64]
    offload_optimizer: NDArray[np.float64]
    offload_parameters: NDArray[np.float64]
    offload_tier: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of layouts."""
        return len(self.tensor_parallel)

    def take(self, rows: NDArray[Any]) -> Self:
        """The layouts that ``rows``, indices or a Boolean mask, selects."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def mode_is(self, *modes: TensorMode) -> NDArray[np.bool_]:
        """Where the tensor mode is one of ``modes``."""
        # Faster than np.isin by ten times where there are few layouts, and asked for often.
        found = self.tensor_mode == TENSOR_MODES.index(modes[0])
        for mode in modes[1:]:
            found |= self.tensor_mode == TENSOR_MODES.index(mode)
        return found

    def schedule_is(self, schedule: Schedule) -> NDArray[np.bool_]:
        """Where the pipeline schedule is ``schedule``."""
        return self.schedule == SCHEDULES.index(schedule)

    def layout(
        self, row: int, layers_per_stage: Sequence[int], recompute: Sequence[int], precision: Precision
    ) -> Layout:
        """The layout in ``row`` with the given layers and recomputed layers per stage."""
        return Layout(
            tensor_mode=TENSOR_MODES[self.tensor_mode[row]],
            tensor_parallel=int(self.tensor_parallel[row]),
            tensor_depth=int(self.tensor_depth[row]),
            pipeline_parallel=int(self.pipeline_parallel[row]),
            data_parallel=int(self.data_parallel[row]),
            zero_stage=int(self.zero_stage[row]),
            sequence_parallel=bool(self.sequence_parallel[row]),
            micro_batch=int(self.micro_batch[row]),
            num_microbatches=int(self.num_microbatches[row]),
            schedule=SCHEDULES[self.schedule[row]],
            num_model_chunks=int(self.num_model_chunks[row]),
            layers_per_stage=tuple(map(int, layers_per_stage)),
            recompute_layers_per_stage=tuple(map(int, recompute)),
            offload=Offload(
                optimizer=float(self.offload_optimizer[row]),
                parameters=float(self.offload_parameters[row]),
                tier=OFFLOAD_TIERS[self.offload_tier[row]],
            ),
            precision=precision,
        )


def once_per_table(function: Callable[[LayoutColumns], Result]) -> Callable[[LayoutColumns], Result]:
    """Ask ``function`` once for the same columns; they never change, so neither does what it returns."""

    @functools.wraps(function)
    def remembered(columns: LayoutColumns) -> Result:
        known = vars(columns).setdefault("_remembered", {})
        if function not in known:
            known[function] = function(columns)
        result: Result = known[function]
        return result

    return remembered


def columns_of(layout: Layout) -> LayoutColumns:
    """The one-row columns of ``layout``; the inverse of :meth:`LayoutColumns.layout`.

    ``recompute`` is the narrowest word for the layout's recomputed layers.
    """
    integers = {
        "tensor_mode": TENSOR_MODES.index(layout.tensor_mode),
        "tensor_parallel": layout.tensor_parallel,
        "tensor_depth": layout.tensor_depth,
        "pipeline_parallel": layout.pipeline_parallel,
        "data_parallel": layout.data_parallel,
        "zero_stage": layout.zero_stage,
        "sequence_parallel": int(layout.sequence_parallel),
        "micro_batch": layout.micro_batch,
        "num_microbatches": layout.num_microbatches,
        "schedule": SCHEDULES.index(layout.schedule),
        "num_model_chunks": layout.num_model_chunks,
        "recompute": _recompute_of(layout),
        "offload_tier": OFFLOAD_TIERS.index(layout.offload.tier),
    }
    return LayoutColumns(
        **{name: np.array([value], dtype=np.int64) for name, value in integers.items()},
        offload_optimizer=np.array([layout.offload.optimizer]),
        offload_parameters=np.array([layout.offload.parameters]),
    )


def _recompute_of(layout: Layout) -> int:
    recompute, layers = layout.recompute_layers_per_stage, layout.layers_per_stage
    if not any(recompute):
        return NO_RECOMPUTE
    if recompute == layers:
        return FULL_RECOMPUTE
    some = len(recompute) == len(layers) and all(0 < r < n for r, n in zip(recompute, layers, strict=True))
    return SOME_RECOMPUTE if some else FREE_RECOMPUTE
