"""Which layouts run compiled: those without a grid and below ZeRO stage 3, where a problem asks for it.

And what comes with it: an update in one pass, and communication behind computation where the library waits.
"""

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import SHARDS_OPTIMIZER, SHARDS_WEIGHTS, Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.specs import ModelSpec, StackSpec


def compiles(stack: StackSpec, model: ModelSpec) -> bool:
    """Whether a stack compiles blocks of a model."""
    return stack.compiled is not None and model.family in stack.compiled.families


def are_compiled(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Of which layouts blocks and loss are compiled."""
    if not problem.compiled or not compiles(problem.stack, problem.model):
        return np.zeros(len(columns), dtype=np.bool_)
    return columns.mode_is("none", "1d") & (columns.zero_stage < SHARDS_WEIGHTS)


def is_compiled(problem: Problem, layout: Layout) -> bool:
    """Whether blocks and loss of one layout are compiled."""
    return bool(are_compiled(problem, columns_of(layout))[0])


def in_one_pass(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """In which layouts the optimizer reads gradients as they are, and writes what computes."""
    own = problem.stack.compiled
    if own is None or problem.precision not in own.one_pass:
        return np.zeros(len(columns), dtype=np.bool_)
    plain = columns.zero_stage == 0
    return are_compiled(problem, columns) & (plain | shards_itself(problem, columns))


def shards_itself(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Which layouts with ZeRO 1 and 2 scatter gradients behind backward, and gather weights behind forward."""
    sharded = (columns.zero_stage >= SHARDS_OPTIMIZER) & (columns.replicas > 1) & (columns.expert_parallel == 1)
    return are_compiled(problem, columns) & sharded & (columns.offload_optimizer == 0)


def reduces_itself(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Which layouts without ZeRO reduce gradients where they are behind the last backward, without DDP."""
    return are_compiled(problem, columns) & (columns.zero_stage == 0) & (columns.replicas > 1)


def offers_pointwise(problem: Problem) -> bool:
    """Whether a problem asks for compiled blocks that can recompute pointwise: :func:`may_recompute_pointwise`."""
    own = problem.stack.compiled
    compiled = problem.compiled and compiles(problem.stack, problem.model)
    return compiled and own is not None and own.recomputes_pointwise


def may_recompute_pointwise(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Of which layouts compiled blocks can make outputs of norms and activation functions again in backward.

    Where all products of a block are compiled with what is between them: what a collective is handed, or a product
    that has one, is kept, and so is what a product is handed that puts its weight gradient off.
    """
    if not offers_pointwise(problem):
        return np.zeros(len(columns), dtype=np.bool_)
    whole = (columns.tensor_parallel == 1) & (columns.sequence_parallel_degree == 1)
    return are_compiled(problem, columns) & whole & ~columns.schedule_is("zbv")
