"""Which memories a relaxed layout can fit at once, for each way in which its layers may be divided."""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from planner.cost_model import MODELLED_MODES
from planner.layout import SOME_RECOMPUTE, LayoutColumns
from planner.pins import EVEN, pinned_layers
from planner.problem import Problem
from planner.solver.limits import fits_device, fits_host, stage_limits
from planner.solver.requirements import EVEN_STAGES, LAYERS, MEMORIES, PIN, Requirement
from planner.stages import Booleans

Broken = frozenset[Requirement]


@dataclass(frozen=True, kw_only=True)
class Division:
    """A way to divide the layers: as the pin says, evenly, or freely."""

    broken: Broken
    """Requirements that it does not keep, whatever the layout."""
    problem: Problem
    """The problem whose limits describe it."""

    def possible(self, columns: LayoutColumns) -> Booleans:
        """Layouts whose layers can be divided like this; freely is always possible."""
        pinned = self.problem.pins.get(LAYERS)
        if pinned is None:
            return np.ones(len(columns), dtype=bool)
        stages, inverse = np.unique(columns.pipeline_parallel, return_inverse=True)
        num_layers = self.problem.model.num_layers
        divided = [pinned_layers(pinned, num_layers, n) if n <= num_layers else None for n in stages.tolist()]
        # A stage that recomputes some of its layers and not all of them has two or more.
        known = np.array([layers is not None for layers in divided])
        splits = np.array([layers is not None and min(layers) > 1 for layers in divided])
        return np.where(columns.recompute == SOME_RECOMPUTE, splits[inverse], known[inverse])

    def misfits(self, columns: LayoutColumns) -> Iterator[tuple[Broken, Booleans]]:
        """The memories that a best division leaves broken, and where.

        A layout that fits each memory and not both is in two groups.
        """
        judged = judged_by_memory(self.problem, columns)
        yield frozenset(), ~judged
        if not judged.any():
            return
        part, num_layers = columns.take(judged), self.problem.model.num_layers
        device, host, both = (
            stage_limits(self.problem, part, where).fitting_layouts(num_layers)
            for where in ([fits_device], [fits_host], [fits_device, fits_host])
        )
        on_device, on_host = MEMORIES
        for broken, rows in (
            (frozenset[Requirement](), both),
            (frozenset({on_host}), device & ~both),
            (frozenset({on_device}), host & ~both),
            (frozenset({on_device, on_host}), ~device & ~host),
        ):
            mask = np.zeros(len(columns), dtype=bool)
            mask[judged] = rows
            yield broken, mask


def judged_by_memory(problem: Problem, columns: LayoutColumns) -> Booleans:
    """Where there are formulas for a layout: in some tensor modes, with layers for all stages.

    The others keep both memories in a conflict, so that it names the rule against them.
    """
    return columns.mode_is(*MODELLED_MODES) & (columns.pipeline_parallel <= problem.model.num_layers)


def divisions(problem: Problem) -> list[Division]:
    """Every way to divide layers that some requirement tells apart from the others."""
    pinned = problem.pins.get(LAYERS)
    other = {name: value for name, value in problem.pins.items() if name != LAYERS}
    pin = frozenset({Requirement(rule=PIN, field=LAYERS, value=pinned)} if pinned is not None else ())
    even = frozenset(() if problem.stack.uneven_stages else {Requirement(rule=EVEN_STAGES)})
    free_stack = msgspec.structs.replace(problem.stack, uneven_stages=True)
    free = msgspec.structs.replace(problem, pins=other, stack=free_stack)
    found = [Division(broken=pin | even, problem=free)]
    if even and pinned != EVEN:
        found.append(Division(broken=pin, problem=msgspec.structs.replace(free, pins=other | {LAYERS: EVEN})))
    if pinned is not None:
        same = pinned == EVEN or len({part.strip() for part in pinned.split(",")}) == 1
        broken = frozenset[Requirement]() if same else even
        found.append(Division(broken=broken, problem=msgspec.structs.replace(free, pins=other | {LAYERS: pinned})))
    return found
