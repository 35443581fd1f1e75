"""The counts that hold where blocks and loss are compiled."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import numpy as np

from planner.layouts.compilation import are_compiled
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, StageColumns

Formula = TypeVar("Formula", bound=Callable[[Problem, StageColumns], Any])
Where = Callable[[Problem, StageColumns], Booleans]


def with_compiled_counts(formula: Formula) -> Formula:
    """Ask ``formula`` with the counts of compiled blocks where they are compiled, and with the others elsewhere."""

    @wraps(formula)
    def asked(problem: Problem, stages: StageColumns) -> Any:
        chosen = are_compiled(problem, stages.layouts)
        if not chosen.any():
            return formula(problem, stages)
        compiled = formula(problem.with_compiled_counts, stages)
        return compiled if chosen.all() else _where(chosen, compiled, formula(problem, stages))

    return asked  # type: ignore[return-value]


def _where(chosen: Booleans, yes: Any, no: Any) -> Any:
    if not isinstance(yes, tuple):
        return np.where(chosen, yes, no)
    columns = [np.where(chosen, *both) for both in zip(yes, no, strict=True)]
    return type(yes)(*columns) if hasattr(yes, "_fields") else tuple(columns)
