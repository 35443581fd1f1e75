"""How ranks that divide sequences come to whole attention: by all-to-all over heads, or keys and values in a ring."""

import numpy as np

from planner.layouts.degrees import divisors
from planner.layouts.layout import LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Integers

TILE_TOKENS = 128
"""Queries of one tile of an attention kernel (Dao 2023, arXiv 2307.08691, section 3.3): fewer leave it unfilled."""


def passes_keys(problem: Problem) -> bool:
    """Whether keys and values go around the ranks that divide a sequence, which is context parallelism."""
    return problem.model.family in problem.stack.ring_families


def pieces_of_sequence(problem: Problem) -> int:
    """Equal pieces of a sequence that each rank has: in a ring one of the front and one of the back."""
    return 2 if passes_keys(problem) else 1


def ring_degrees(problem: Problem) -> tuple[int, ...]:
    """Ranks of a ring whose pieces of a sequence fill tiles of attention; none where the stack has no rings."""
    if not passes_keys(problem):
        return ()
    pieces = problem.seq_len // pieces_of_sequence(problem)
    return tuple(degree for degree in divisors(pieces) if pieces // degree >= TILE_TOKENS)


def tensor_stride(problem: Problem, columns: LayoutColumns) -> Integers:
    """Distance of neighbours in the tensor-parallel group, in ranks: those of a ring are outside of it."""
    degree = columns.sequence_parallel_degree
    return np.ones_like(degree) if passes_keys(problem) else degree


def sequence_stride(problem: Problem, columns: LayoutColumns) -> Integers:
    """Distance of neighbours among the ranks that divide a sequence, in ranks: those of all-to-all are next door."""
    degree = columns.tensor_parallel
    return degree if passes_keys(problem) else np.ones_like(degree)
