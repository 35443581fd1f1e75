"""Times of layouts whose stages choose how many layers they recompute: exact, for the few that are promising."""

from dataclasses import dataclass, replace

import numpy as np

from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Integers
from planner.solver.limits import StageLimits
from planner.solver.recompute import with_needed
from planner.solver.tables import Affine, Stepped, TimeTables, recompute_ticks


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many layers the stages may take if a step is to be no slower than a known one."""

    limits: StageLimits
    slowest: Integers
    """Per layout: the longest stage time that such a step allows, in ticks."""
    possible: Booleans
    """Per layout: whether its stages have room for all layers then."""


def window(tables: TimeTables, step_ticks: float) -> Window:
    """The window of steps of at most ``step_ticks``, which take at least ``fixed + M max t_s``."""
    slowest = ((step_ticks - tables.fixed) // tables.num_microbatches).astype(np.int64)
    most = np.minimum(tables.limits.most, tables.microbatch.layers_within(tables.spread(slowest)))
    limits = replace(tables.limits, most=most)
    return Window(limits=limits, slowest=slowest, possible=limits.fitting_layouts(tables.num_layers))


def stepped(problem: Problem, tables: TimeTables, limits: StageLimits) -> TimeTables:
    """The tables with the layers of ``limits`` and with what each number of them has to recompute."""
    if not isinstance(tables.microbatch, Affine):
        raise TypeError("the tables are stepped already")
    counts = limits.most - limits.fewest + 1
    rows = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    layers = np.arange(len(rows)) - np.repeat(firsts - limits.fewest, counts)
    options = with_needed(problem, limits.stages.take(rows).with_layers(layers))
    affine = Affine(base=tables.microbatch.base[rows], slope=tables.microbatch.slope[rows])
    values = affine.at(layers) + recompute_ticks(problem, options, tables.tick_s)
    return replace(tables, microbatch=Stepped(fewest=limits.fewest, counts=counts, values=values), limits=limits)
