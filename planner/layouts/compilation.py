"""Which layouts run compiled: those without a grid and below ZeRO stage 3, where a problem asks for it."""

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import SHARDS_WEIGHTS, Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem


def are_compiled(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Of which layouts blocks and loss are compiled."""
    own = problem.stack.compiled
    if not problem.compiled or own is None or problem.model.family not in own.families:
        return np.zeros(len(columns), dtype=np.bool_)
    return columns.mode_is("none", "1d") & (columns.zero_stage < SHARDS_WEIGHTS)


def is_compiled(problem: Problem, layout: Layout) -> bool:
    """Whether blocks and loss of one layout are compiled."""
    return bool(are_compiled(problem, columns_of(layout))[0])
