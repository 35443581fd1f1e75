"""A layout: how one training step is divided over the devices.

:class:`Layout` is one layout, as a plan freezes it, and the one place where a field is declared: its type gives its
column (:data:`FIELDS`) and the words by which a person pins it, its default is the value that divides nothing.
:class:`LayoutColumns` holds many layouts, one NumPy array per field, so that rules and cost formulas are written
once and serve one layout or a million.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, ParamSpec, Self, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from planner.specs import Fraction, OffloadTier, Precision, Schedule, TensorMode

TENSOR_MODES: tuple[TensorMode, ...] = get_args(TensorMode)
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)
OFFLOAD_TIERS: tuple[OffloadTier, ...] = get_args(OffloadTier)
RECOMPUTES = ("none", "all", "some", "free", "listed")
"""What the stages recompute: no layer, all of theirs, on each some but not all, anything, or what a pin lists."""
NO_RECOMPUTE, FULL_RECOMPUTE, SOME_RECOMPUTE, FREE_RECOMPUTE, LISTED_RECOMPUTE = range(len(RECOMPUTES))
RECOMPUTE = "recompute_layers_per_stage"
"""The field of which columns say one of :data:`RECOMPUTES`."""
SHARDS_OPTIMIZER, SHARDS_GRADIENTS, SHARDS_WEIGHTS = 1, 2, 3
"""The ZeRO stages from which on data-parallel ranks divide the optimizer's states, gradients and weights."""

MOST_VALUES = 10
"""Whole numbers of a field that are its words; a count has more."""

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

Degree = Annotated[int, Meta(ge=1, le=2**24)]
"""Beyond every cluster and batch."""
LayerCount = Annotated[int, Meta(ge=0, le=2**20)]


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
    """One layout. The constructor does not validate: :func:`planner.rules.violations` does.

    What has a default is a column too; the lists per stage and the precision, which is the problem's, are none.
    """

    tensor_mode: TensorMode = "none"
    tensor_parallel: Degree = 1
    tensor_depth: Degree = 1
    """Depth of the 2.5D grid; 1 in every other mode."""
    pipeline_parallel: Degree = 1
    data_parallel: Degree = 1
    zero_stage: Annotated[int, Meta(ge=0, le=3)] = 0
    sequence_parallel: bool = False
    sequence_parallel_degree: Degree = 1
    """Ranks that divide each sequence: inside of attention they exchange heads, or pass keys and values around."""
    expert_parallel: Degree = 1
    """Ranks that divide the experts of each layer among them, and work on different sequences: part of data
    parallelism, and of tensor parallelism where the stack does not divide each expert by that."""
    micro_batch: Degree = 1
    """Sequences that one data-parallel rank pushes through the model at once."""
    num_microbatches: Degree = 1
    """Micro batches of one optimizer step on each data-parallel rank."""
    schedule: Schedule = "none"
    num_model_chunks: Degree = 1
    layers_per_stage: tuple[LayerCount, ...]
    recompute_layers_per_stage: tuple[LayerCount, ...]
    recompute_pointwise: bool = False
    """Whether compiled blocks keep no outputs of norms and activation functions, and make them again in backward."""
    offload: Offload = Offload()
    precision: Precision

    @property
    def num_devices(self) -> int:
        """Devices the layout uses: TP x SP x PP x DP."""
        return self.replica_devices * self.data_parallel

    @property
    def replica_devices(self) -> int:
        """Devices that work on the same sequences: TP x SP x PP."""
        return self.tensor_parallel * self.sequence_parallel_degree * self.pipeline_parallel

    @property
    def global_batch(self) -> int:
        """Sequences of one optimizer step over all data-parallel ranks."""
        return self.micro_batch * self.num_microbatches * self.data_parallel


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a layout as a column of numbers, and the words that a person has for them."""

    name: str
    """As a person types it: ``offload.tier``."""
    column: str
    """Its attribute of :class:`LayoutColumns`."""
    neutral: Any
    """The value that divides nothing and moves nothing."""
    values: tuple[Any, ...] = ()
    """All it can have, in the order of the column's numbers; empty where the number is the value."""

    @property
    def is_share(self) -> bool:
        """Whether it is a share from 0 to 1; else its numbers are whole."""
        return isinstance(self.neutral, float)

    @property
    def words(self) -> tuple[str, ...]:
        """The values as a person types them; empty for a count and a share."""
        return tuple(str(value).lower() for value in self.values)

    @property
    def dtype(self) -> type[np.float64] | type[np.int64]:
        """Of its column."""
        return np.float64 if self.is_share else np.int64

    def number(self, value: Any) -> float:
        """The number of a value."""
        return self.values.index(value) if self.values else value

    def value(self, number: float) -> Any:
        """The value of a number."""
        if self.values:
            return self.values[int(number)]
        return float(number) if self.is_share else int(number)


def _values_of(hint: Any) -> tuple[Any, ...]:
    """All values of a type that has few: the words of a literal, false and true, the whole numbers of a range."""
    if hint is bool:
        return (False, True)
    if get_origin(hint) is Literal:
        return get_args(hint)
    meta = next((one for one in get_args(hint)[1:] if isinstance(one, Meta)), None)
    if meta is None or not isinstance(meta.ge, int) or not isinstance(meta.le, int):
        return ()
    return tuple(range(meta.ge, meta.le + 1)) if meta.le - meta.ge < MOST_VALUES else ()


def _fields_of(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[Field]:
    hints = get_type_hints(struct, include_extras=True)
    for field in msgspec.structs.fields(struct):
        name, default, hint = prefix + field.name, field.default, hints[field.name]
        if name == RECOMPUTE:
            words = RECOMPUTES[:FREE_RECOMPUTE]
            yield Field(name=name, column="recompute", neutral=words[NO_RECOMPUTE], values=words)
        elif isinstance(default, msgspec.Struct):
            yield from _fields_of(type(default), f"{name}.")
        elif not field.required:
            yield Field(name=name, column=name.replace(".", "_"), neutral=default, values=_values_of(hint))


FIELDS: dict[str, Field] = {field.name: field for field in _fields_of(Layout)}
"""The fields of a layout that are columns, by name."""


@dataclass(frozen=True, kw_only=True)
class LayoutColumns:
    """Layouts without their layers per stage, as equally long columns of the numbers of :data:`FIELDS`.

    ``recompute`` may also be :data:`FREE_RECOMPUTE`, which no whole layout asks for, and in a search
    :data:`LISTED_RECOMPUTE`: the layers that a pin lists, some on one stage at least.
    """

    tensor_mode: NDArray[np.int64]
    tensor_parallel: NDArray[np.int64]
    tensor_depth: NDArray[np.int64]
    pipeline_parallel: NDArray[np.int64]
    data_parallel: NDArray[np.int64]
    zero_stage: NDArray[np.int64]
    sequence_parallel: NDArray[np.int64]
    sequence_parallel_degree: NDArray[np.int64]
    expert_parallel: NDArray[np.int64]
    micro_batch: NDArray[np.int64]
    num_microbatches: NDArray[np.int64]
    schedule: NDArray[np.int64]
    num_model_chunks: NDArray[np.int64]
    recompute: NDArray[np.int64]
    recompute_pointwise: NDArray[np.int64]
    offload_optimizer: NDArray[np.float64]
    offload_parameters: NDArray[np.float64]
    offload_tier: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of layouts."""
        return len(self.tensor_parallel)

    @classmethod
    def of(cls, columns: dict[str, NDArray[Any]], length: int) -> Self:
        """Columns by name, copied in their types; those that are not named have the neutral value."""
        whole: dict[str, Any] = {}
        for field in FIELDS.values():
            numbers = columns.get(field.column)
            if numbers is None:
                numbers = np.full(length, field.number(field.neutral))
            whole[field.column] = numbers.astype(field.dtype)
        return cls(**whole)

    def take(self, rows: NDArray[Any]) -> Self:
        """The layouts that ``rows``, indices or a Boolean mask, selects."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @functools.cached_property
    def replicas(self) -> NDArray[np.int64]:
        """Ranks that hold the same part of the model, over which gradients are reduced and ZeRO divides: DP x SP."""
        return self.data_parallel * self.sequence_parallel_degree

    def mode_is(self, *modes: TensorMode) -> NDArray[np.bool_]:
        """Where the tensor mode is one of ``modes``."""
        # Faster than np.isin by ten times where there are few layouts, and asked for often.
        found = self.tensor_mode == (TENSOR_MODES.index(modes[0]) if modes else -1)
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
        told = {f.name: f.value(getattr(self, f.column)[row]) for f in FIELDS.values() if f.name != RECOMPUTE}
        layers, recomputed = tuple(map(int, layers_per_stage)), tuple(map(int, recompute))
        return layout_with(told, layers_per_stage=layers, recompute_layers_per_stage=recomputed, precision=precision)


def once_per(
    parts: Callable[[Any], tuple[object, ...]],
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Ask a function once for the same arguments, whose last one counts by its ``parts``; none of them ever changes.

    The last answer is kept on the first part and goes with it. It is given again while all other parts and
    arguments are the very same objects.
    """

    def decorated(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def remembered(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            holder, *rest = parts(args[-1])
            same, known = (*args[:-1], *rest), vars(holder).setdefault("_remembered", {})
            found = known.get(function)
            if found is None or not all(map(operator.is_, found[0], same)):
                found = known[function] = (same, function(*args, **kwargs))
            result: Result = found[1]
            return result

        return remembered

    return decorated


once_per_table = once_per(lambda columns: (columns,))
"""Once for the same columns, and the same problem if the function has one."""


def layout_with(values: Mapping[str, Any], **lists: Any) -> Layout:
    """The layout with values by their names in :data:`FIELDS`; what is not named is neutral.

    Args:
        values: by name; others than fields of a layout are left alone.
        lists: the lists per stage and the precision.
    """
    offload = {name: values[f"offload.{name}"] for name in Offload.__struct_fields__ if f"offload.{name}" in values}
    whole = {name: values[name] for name in Layout.__struct_fields__ if name in values and name not in lists}
    return Layout(**whole | lists, offload=Offload(**offload))


def columns_of(layout: Layout) -> LayoutColumns:
    """The one-row columns of ``layout``; the inverse of :meth:`LayoutColumns.layout`.

    ``recompute`` is the narrowest word for the layout's recomputed layers.
    """
    named = FIELDS.values()
    return _row(
        tuple(_recompute_of(layout) if f.name == RECOMPUTE else f.number(value_of(layout, f.name)) for f in named)
    )


@functools.lru_cache(maxsize=16)
def _row(numbers: tuple[Any, ...]) -> LayoutColumns:
    # The same columns for layouts that differ by layers alone: what is remembered of columns is worked out once.
    named = zip(FIELDS.values(), numbers, strict=True)
    columns: dict[str, Any] = {field.column: np.array([number], dtype=field.dtype) for field, number in named}
    return LayoutColumns(**columns)


def value_of(layout: Layout, field: str) -> Any:
    """A field of a layout by its name: ``offload.tier``."""
    return functools.reduce(getattr, field.split("."), layout)


def _recompute_of(layout: Layout) -> int:
    recompute, layers = layout.recompute_layers_per_stage, layout.layers_per_stage
    if not any(recompute):
        return NO_RECOMPUTE
    if recompute == layers:
        return FULL_RECOMPUTE
    some = len(recompute) == len(layers) and all(0 < r < n for r, n in zip(recompute, layers, strict=True))
    return SOME_RECOMPUTE if some else FREE_RECOMPUTE
