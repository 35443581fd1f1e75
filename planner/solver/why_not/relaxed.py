"""Layouts beyond the candidates: those that a problem would have with some of its requirements dropped.

The candidates of a problem widen with its pins and end at its device count and its offload tier. The
relaxed space has the candidates with every offload tier, and each of them again with the values of
some pins put in, whether that keeps the rules or not. Only layouts that repeat another one in a
different spelling, such as tensor mode 1d on one rank, are in neither.
"""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from planner.layouts import zero_bubble
from planner.layouts.degrees import makes_grid
from planner.layouts.division import has_chunks
from planner.layouts.layout import LISTED_RECOMPUTE, OFFLOAD_TIERS, RECOMPUTE, SCHEDULES, TENSOR_MODES, LayoutColumns
from planner.layouts.pins import LAYERS, column_value, listed_number, listed_recompute, listed_stages
from planner.layouts.problem import Problem
from planner.solver.candidates import enumerate_layouts, recomputes, too_many

MOST_RELAXED = 4_000_000
"""Layouts that are judged within 2 GB of memory."""
MAX_SUBSETS = 16
"""Subsets of pins that are put in; the full set and the smallest ones come first."""


LARGEST_KEY = 2**62
"""Combinations of values that an integer can number."""
FEW = 8
"""Whole numbers below this are their own code; others are sorted, which takes time."""


def relaxed_layouts(problem: Problem) -> LayoutColumns:
    """The relaxed space of a problem, without repetitions; the candidates come first.

    Raises:
        PlanError: it has more than :data:`MOST_RELAXED` layouts.
    """
    wide = enumerate_layouts(msgspec.structs.replace(problem, allow_offload=OFFLOAD_TIERS[-1]))
    subsets = list(_subsets(list(problem.pins)))
    parts = [wide, *_any_recompute(problem)]
    if sum(map(len, parts)) + len(wide) * len(subsets) > MOST_RELAXED:
        raise too_many(problem, f"no answer, and more than {MOST_RELAXED:,} layouts near it to say why")
    parts += [_with_pins(problem, wide, subset) for subset in subsets]
    together = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(LayoutColumns)]
    rows = _first_of_each(together)
    return LayoutColumns(**{f.name: column[rows] for f, column in zip(fields(LayoutColumns), together, strict=True)})


def _first_of_each(columns: list[NDArray[Any]]) -> NDArray[np.int64]:
    """The first row of each combination of values."""
    key, size = np.zeros(len(columns[0]), dtype=np.int64), 1
    for column in columns:
        code, num_codes = _coded(column)
        size *= num_codes
        if size > LARGEST_KEY:
            raise ValueError(f"{size} combinations are too many to tell apart")
        key = key * num_codes + code
    return np.sort(np.unique(key, return_index=True)[1])


def _coded(column: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Numbers from 0 that are equal where the values of a column are, and how many there may be."""
    if column.dtype == np.int64 and column.min() >= 0 and column.max() < FEW:
        return column, int(column.max()) + 1
    values, code = np.unique(column, return_inverse=True)
    return code.ravel(), len(values)


def _any_recompute(problem: Problem) -> list[LayoutColumns]:
    """The candidates that may recompute anything, where the user named what they recompute."""
    if RECOMPUTE not in {*problem.pins, *problem.forbids}:
        return []
    pins, forbids = (
        {field: value for field, value in said.items() if field != RECOMPUTE}
        for said in (problem.pins, problem.forbids)
    )
    unnamed = msgspec.structs.replace(problem, allow_offload=OFFLOAD_TIERS[-1], pins=pins, forbids=forbids)
    return [enumerate_layouts(unnamed)]


def _subsets(pins: list[str]) -> Iterator[tuple[str, ...]]:
    rising = (subset for size in range(1, len(pins)) for subset in itertools.combinations(pins, size))
    if pins:
        yield tuple(pins)
    yield from itertools.islice(rising, MAX_SUBSETS - 1)


def _with_pins(problem: Problem, columns: LayoutColumns, pinned: tuple[str, ...]) -> LayoutColumns:
    """``columns`` with the values of some pins; degrees and batch split that are not pinned follow."""
    values: dict[str, Any] = {}
    listed = listed_recompute(problem.pins)
    for field in pinned:
        if field == RECOMPUTE and listed is not None:
            values.setdefault("pipeline_parallel", len(listed))
        elif field == LAYERS:
            if (stages := listed_stages(problem.pins[field])) is not None:
                values.setdefault("pipeline_parallel", stages)
        else:
            values.update([column_value(field, problem.pins[field])])
    columns = _put(columns, values)
    if listed is not None:
        columns = _put(columns, _recompute(problem, columns, listed, is_put=RECOMPUTE in pinned))
    columns = _spelled(problem, columns, values)
    if "data_parallel" not in values:
        group = columns.tensor_parallel * columns.sequence_parallel_degree * columns.pipeline_parallel
        columns = _put(columns, {"data_parallel": np.maximum(1, problem.num_devices // group)})
    columns = _put(columns, _batch_split(problem, columns, values))
    repeats = ~columns.mode_is("none") & (columns.tensor_parallel == 1)
    if not {"tensor_mode", "tensor_parallel"} <= values.keys():
        # What ranks that make no grid would need is a guess that nobody asked for.
        repeats |= ~makes_grid(columns)
    return columns.take(~repeats)


def _recompute(problem: Problem, columns: LayoutColumns, listed: tuple[int, ...], *, is_put: bool) -> dict[str, Any]:
    """What layouts recompute of which some now have another number of stages than a pin lists recomputed layers of."""
    others = columns.recompute
    if listed_number(listed) == LISTED_RECOMPUTE:
        others = np.where(others == LISTED_RECOMPUTE, recomputes(problem, is_listed=False)[0], others)
    as_many = columns.pipeline_parallel == len(listed)
    kept = listed_number(listed) if is_put else columns.recompute
    return {"recompute": np.where(as_many, kept, others)}


def _spelled(problem: Problem, columns: LayoutColumns, values: dict[str, Any]) -> LayoutColumns:
    """Mode, schedule and chunks as the degrees want them, where they are not put in themselves."""
    modes = [TENSOR_MODES.index(mode) for mode in (*problem.stack.tensor_modes, "1d") if mode != "none"]
    if "tensor_mode" not in values:
        mode = np.where(columns.tensor_mode == 0, modes[0], columns.tensor_mode)
        columns = _put(columns, {"tensor_mode": np.where(columns.tensor_parallel == 1, 0, mode)})
    schedules = [SCHEDULES.index(schedule) for schedule in (*problem.stack.schedules, "1f1b") if schedule != "none"]
    if "schedule" not in values:
        schedule = np.where(columns.schedule == 0, schedules[0], columns.schedule)
        columns = _put(columns, {"schedule": np.where(columns.pipeline_parallel == 1, 0, schedule)})
    if "num_model_chunks" not in values:
        chunks = np.where(has_chunks(columns), np.maximum(columns.num_model_chunks, 2), 1)
        chunks = np.where(columns.schedule_is("zbv"), zero_bubble.CHUNKS, chunks)
        columns = _put(columns, {"num_model_chunks": chunks})
    return columns


def _batch_split(problem: Problem, columns: LayoutColumns, values: dict[str, Any]) -> dict[str, Any]:
    local = np.maximum(1, problem.global_batch // columns.data_parallel)
    if "num_microbatches" not in values:
        return {"num_microbatches": np.maximum(1, local // columns.micro_batch)}
    if "micro_batch" not in values:
        return {"micro_batch": np.maximum(1, local // columns.num_microbatches)}
    return {}


def _put(columns: LayoutColumns, values: dict[str, Any]) -> LayoutColumns:
    full = {
        name: np.broadcast_to(np.asarray(value, dtype=getattr(columns, name).dtype), len(columns)).copy()
        for name, value in values.items()
    }
    return replace(columns, **full)
