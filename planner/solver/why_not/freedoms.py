"""Which memories a relaxed layout can fit at once, for each freedom to divide its layers."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from planner.layouts.asked import asked_stages
from planner.layouts.division import CHUNKED, divides_evenly, full_stage, has_chunks, is_even
from planner.layouts.layout import LISTED_RECOMPUTE, SOME_RECOMPUTE, LayoutColumns
from planner.layouts.pins import EVEN, LAYERS, layers_to_recompute, listed_recompute, pinned_layers
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans
from planner.solver.fit import FitTable
from planner.solver.limits import limits_within
from planner.solver.why_not.requirements import EVEN_STAGES, MEMORIES, PIN, Requirement

Broken = frozenset[Requirement]


@dataclass(frozen=True, kw_only=True)
class Freedom:
    """How freely layers may be divided: as the pin says, evenly, or in any way."""

    broken: Broken
    """Requirements that it does not keep, whatever the layout."""
    problem: Problem
    """The problem whose limits describe it."""
    chunked: bool | None = None
    """Whether it is for layouts with a schedule of chunks, for all others, or ``None`` for all."""
    even: bool = False
    """Whether it is for divisions alone that are even where a stack counts its ends as layers."""

    def possible(self, columns: LayoutColumns) -> Booleans:
        """Layouts whose layers can be divided like this; freely is always possible."""
        pinned = self.problem.pins.get(LAYERS)
        asked = np.ones(len(columns), dtype=bool)
        if self.chunked is not None:
            asked = has_chunks(columns) == self.chunked
        if self.even:
            asked = asked & self._can_be_even(columns, pinned)
        asked = asked if pinned is None else asked & self._can_have(columns, pinned)
        return asked & self._can_recompute_as_listed(columns) if self.even or pinned is not None else asked

    def _can_recompute_as_listed(self, columns: LayoutColumns) -> Booleans:
        """Where no stage has fewer layers than a pin lists for it to recompute; elsewhere than there true."""
        rows = np.flatnonzero((columns.recompute == LISTED_RECOMPUTE) & judged_by_memory(self.problem, columns))
        found, num_layers = np.ones(len(columns), dtype=bool), self.problem.model.num_layers
        if len(rows):
            stages = asked_stages(self.problem, columns.take(rows))
            every = np.full(len(stages), num_layers)
            limits = limits_within(self.problem, stages, every, interleaved_is_even=self.even)
            found[rows] = limits.fitting_layouts(num_layers)
        return found

    def _can_be_even(self, columns: LayoutColumns, pinned: str | None) -> Booleans:
        if pinned is not None:
            layers = [int(part) for part in pinned.split(",")]
            chunks, inverse = np.unique(columns.num_model_chunks, return_inverse=True)
            return np.array([is_even(self.problem, layers, count) for count in chunks.tolist()])[inverse]
        num_layers, stages = self.problem.model.num_layers, columns.pipeline_parallel
        least = np.where(columns.recompute == SOME_RECOMPUTE, 2, 1)
        whole = (num_layers % stages == 0) & (num_layers >= least * stages)
        return whole | (divides_evenly(self.problem, columns) & (full_stage(self.problem, columns) > least))

    def _can_have(self, columns: LayoutColumns, pinned: str) -> Booleans:
        stages, inverse = np.unique(columns.pipeline_parallel, return_inverse=True)
        num_layers = self.problem.model.num_layers
        divided = [pinned_layers(pinned, num_layers, n) if n <= num_layers else None for n in stages.tolist()]
        # A stage that recomputes some of its layers and not all of them has two or more.
        known = np.array([layers is not None for layers in divided])
        splits = np.array([layers is not None and min(layers) > 1 for layers in divided])
        return np.where(columns.recompute == SOME_RECOMPUTE, splits[inverse], known[inverse])

    def misfits(self, columns: LayoutColumns) -> Iterator[tuple[Broken, Booleans]]:
        """The fewest memories that a division leaves broken, and where.

        A layout that fits each of two memories and not both at once is in two groups.
        """
        judged = judged_by_memory(self.problem, columns)
        yield frozenset(), ~judged
        if not judged.any():
            return
        table = FitTable(self.problem, columns.take(judged), interleaved_is_even=self.even)
        fits: dict[frozenset[int], Booleans] = {}
        for size in range(len(MEMORIES), -1, -1):
            for kept in map(frozenset, itertools.combinations(range(len(MEMORIES)), size)):
                fits[kept] = table.fit(kept)
                better = [rows for others, rows in fits.items() if kept < others]
                mask = np.zeros(len(columns), dtype=bool)
                mask[judged] = fits[kept] & ~np.logical_or.reduce(better, axis=0) if better else fits[kept]
                yield frozenset(one for number, one in enumerate(MEMORIES) if number not in kept), mask


def judged_by_memory(problem: Problem, columns: LayoutColumns) -> Booleans:
    """Where there are layers for all stages of a layout.

    The others keep all memories in a conflict, so that it names the rule against them.
    """
    enough, listed = columns.pipeline_parallel <= problem.model.num_layers, listed_recompute(problem.pins)
    if listed is not None and layers_to_recompute(listed) > problem.model.num_layers:
        enough &= columns.recompute != LISTED_RECOMPUTE
    return np.asarray(enough)


def freedoms(problem: Problem) -> list[Freedom]:
    """Every freedom to divide layers that some requirement tells apart from the others.

    Stages have to be even in a stack that cannot have others, and under a schedule with chunks anywhere.
    """
    if not problem.stack.uneven_stages:
        return _freedoms(problem, _EVEN)
    either = [*_freedoms(problem, frozenset(), chunked=False), *_freedoms(problem, _EVEN, chunked=True)]
    return either if _schedules(problem) & CHUNKED else _freedoms(problem, frozenset())


def _schedules(problem: Problem) -> set[str]:
    return {*problem.stack.schedules, problem.pins.get("schedule", "none")}


_EVEN: Broken = frozenset({Requirement(rule=EVEN_STAGES)})


def _freedoms(problem: Problem, even: Broken, *, chunked: bool | None = None) -> list[Freedom]:
    """How the layers of some layouts may be divided; ``even`` is what uneven stages break there."""
    pinned = problem.pins.get(LAYERS)
    other = {name: value for name, value in problem.pins.items() if name != LAYERS}
    pin: Broken = frozenset({Requirement(rule=PIN, field=LAYERS, value=pinned)} if pinned is not None else ())
    free_stack = msgspec.structs.replace(problem.stack, uneven_stages=True)
    free = msgspec.structs.replace(problem, pins=other, stack=free_stack)
    divided = [(pin | even, free)]
    if even and pinned != EVEN and not problem.stack.ends_as_layers:
        divided.append((pin, msgspec.structs.replace(free, pins=other | {LAYERS: EVEN})))
    same = pinned is not None and (pinned == EVEN or len({part.strip() for part in pinned.split(",")}) == 1)
    if pinned is not None:
        broken: Broken = frozenset() if same else even
        divided.append((broken, msgspec.structs.replace(free, pins=other | {LAYERS: pinned})))
    found = [Freedom(broken=broken, problem=there, chunked=chunked) for broken, there in divided]
    if even and problem.stack.ends_as_layers:
        if pinned != EVEN:
            own = msgspec.structs.replace(problem, pins=other)
            found.insert(1, Freedom(broken=pin, problem=own, chunked=chunked, even=True))
        if pinned is not None and not same:
            found.append(Freedom(broken=frozenset(), problem=divided[-1][1], chunked=chunked, even=True))
    return found
