"""Fitting layouts with a lower bound and a known solution each: the input of the exact model."""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import FREE_RECOMPUTE, NO_RECOMPUTE, SHARDS_WEIGHTS, TENSOR_MODES, Layout, LayoutColumns
from planner.layouts.stages import Floats, Integers
from planner.solver.limits import StageLimits
from planner.specs import Precision

_VARIED = {"tensor_depth", "num_model_chunks"}
"""Fields that make a variant of a choice and no choice of their own."""


def choices(columns: LayoutColumns) -> Integers:
    """The number of the choice that each layout is a variant of: what a person would tell apart.

    Chunks of a stage and the depth of 2.5D are tuned within a choice, and so is whether a V recomputes. ZeRO 0, 1 and 2
    divide nothing over one rank, 2.5D of depth 1 is 2D, and one tensor-parallel rank has no mode.
    """
    keys = {field.name: getattr(columns, field.name) for field in fields(columns) if field.name not in _VARIED}
    mode, whole = keys["tensor_mode"], (columns.data_parallel == 1) & (columns.zero_stage < SHARDS_WEIGHTS)
    mode = np.where(columns.mode_is("2.5d") & (columns.tensor_depth == 1), TENSOR_MODES.index("2d"), mode)
    keys["tensor_mode"] = np.where(columns.tensor_parallel == 1, TENSOR_MODES.index("none"), mode)
    keys["recompute"] = _recompute(columns)
    keys["zero_stage"] = np.where(whole, 0, columns.zero_stage)
    return np.unique(np.stack(list(keys.values()), axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _recompute(columns: LayoutColumns) -> Integers:
    """What layouts may recompute, the same of a V with and without it."""
    without = columns.schedule_is("zbv") & (columns.recompute == NO_RECOMPUTE)
    return np.where(without, FREE_RECOMPUTE, columns.recompute)


def first_of_each(columns: LayoutColumns) -> NDArray[np.bool_]:
    """Which layouts are the first that differ at most by whether a V recomputes, or by the division of their layers."""
    found = np.ones(len(columns), dtype=bool)
    each = [getattr(columns, field.name) for field in fields(columns)]
    found[1:] = np.logical_or.reduce([one[1:] != one[:-1] for one in each])
    if not (columns.schedule_is("zbv") & (columns.recompute == FREE_RECOMPUTE)).any():
        return found
    keys = {field.name: getattr(columns, field.name) for field in fields(columns)} | {"recompute": _recompute(columns)}
    found[:] = False
    found[np.unique(np.stack(list(keys.values()), axis=1), axis=0, return_index=True)[1]] = True
    return found


class Division(NamedTuple):
    """How the stages of one layout divide its layers."""

    layers: Integers
    recompute: Integers
    """How many of them each stage recomputes."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Layouts, in the order of enumeration."""

    limits: StageLimits
    lower_bound: Floats
    """Objective that no division of a layout's layers beats."""
    achieved: Floats
    """Objective of the division in ``layers``."""
    layers: Integers
    """Layers of every stage, flattened."""
    recompute: Integers
    """How many of them every stage recomputes."""
    unit: float
    """One unit of the objective in base units: seconds of a tick, or 1 for bytes."""

    def __len__(self) -> int:
        """Number of layouts."""
        return len(self.achieved)

    @property
    def columns(self) -> LayoutColumns:
        """The layouts without their layers per stage."""
        return self.limits.stages.layouts.take(self.limits.stages.first_rows())

    def best_row(self) -> int:
        """The layout with the least achieved objective, the first one among equals."""
        return int(self.achieved.argmin())

    def rows_of(self, row: int) -> slice:
        """Rows of the stages of one layout."""
        start = int(self.limits.stages.first_rows()[row])
        return slice(start, start + int(self.limits.stages.layouts.pipeline_parallel[start]))

    def division(self, row: int) -> Division:
        """The known division of one layout."""
        rows = self.rows_of(row)
        return Division(self.layers[rows], self.recompute[rows])

    def layout(self, row: int, division: Division, precision: Precision) -> Layout:
        """One layout with a division of its layers."""
        layers, recompute = division.layers.tolist(), division.recompute.tolist()
        return self.limits.stages.layouts.layout(self.rows_of(row).start, layers, recompute, precision)

    def best_of_choices(self, best: int) -> tuple[list[int], list[int]]:
        """The best layout of every choice, and how many fitting layouts are variants of it; that of ``best`` first."""
        columns = self.columns
        order = np.argsort(self.achieved, kind="stable")
        order = np.concatenate([[best], order[order != best]])
        _, first, choice = np.unique(choices(columns)[order], return_index=True, return_inverse=True)
        counts = np.bincount(choice.reshape(-1), weights=first_of_each(columns)[order]).astype(np.int64)
        place = np.argsort(first)
        return order[first[place]].tolist(), counts[place].tolist()

    def promising(self) -> NDArray[np.bool_]:
        """Which layouts can be at least as good as the best achieved objective."""
        return np.asarray(self.lower_bound <= self.achieved.min())

    def take(self, kept: NDArray[np.bool_]) -> "Ranked":
        """The layouts that a mask keeps."""
        rows = self.limits.stages.spread(kept)
        return Ranked(
            limits=self.limits.take_layouts(kept),
            lower_bound=self.lower_bound[kept],
            achieved=self.achieved[kept],
            layers=self.layers[rows],
            recompute=self.recompute[rows],
            unit=self.unit,
        )

    def improved(self, rows: NDArray[np.bool_], better: "Ranked") -> "Ranked":
        """The same layouts with what ``better`` knows of those that ``rows`` selects."""
        stages = self.limits.stages.spread(rows)
        names = {"lower_bound": rows, "achieved": rows, "layers": stages, "recompute": stages}
        columns = {name: getattr(self, name).copy() for name in names}
        for name, where in names.items():
            columns[name][where] = getattr(better, name)
        return replace(self, **columns)
