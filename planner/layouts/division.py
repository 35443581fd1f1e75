"""Which divisions of the layers are even: every stage, and every chunk of it, has as many as any other.

Some stacks count the embedding and the loss head as a layer each: the first chunk of the first stage and the last
chunk of the last stage then hold one layer fewer than the others, and may hold none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from planner.layouts.layout import Layout, LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Booleans, Integers, StageColumns
from planner.specs import Schedule

CHUNKED: frozenset[Schedule] = frozenset({"interleaved", "zbv"})
"""Schedules under which a stage has several chunks of layers."""
END_LAYERS = 2
"""Layers whose place the ends may take: the embedding one, the loss head another."""


class Layers(NamedTuple):
    """The fewest and the most layers that each stage may have; 0 at most where any number will do."""

    fewest: Integers
    most: Integers


def has_to_be_even(problem: Problem, columns: LayoutColumns) -> Booleans:
    """Where the stack or the schedule gives all stages, and all of their chunks, equally many layers."""
    return has_chunks(columns) | (not problem.stack.uneven_stages)


def has_chunks(columns: LayoutColumns) -> Booleans:
    """Where the schedule divides the layers of a stage into chunks, all of as many layers."""
    return np.logical_or.reduce([columns.schedule_is(schedule) for schedule in CHUNKED])


def full_stage(problem: Problem, columns: LayoutColumns) -> Integers:
    """Layers of a stage that nothing is taken from: its chunks times the layers of a chunk, rounded up."""
    chunks = columns.num_model_chunks
    return chunks * -(-problem.model.num_layers // (columns.pipeline_parallel * chunks))


def missing_layers(problem: Problem, columns: LayoutColumns) -> Integers:
    """Layers that full stages would hold in all, and the model does not have."""
    return full_stage(problem, columns) * columns.pipeline_parallel - problem.model.num_layers


def divides_evenly(problem: Problem, columns: LayoutColumns) -> Booleans:
    """Where an even division exists; none where it would leave the first or the last stage without a layer.

    In a V the ends, which are both on the first stage, take the place of no layer.
    """
    missing = missing_layers(problem, columns)
    if not problem.stack.ends_as_layers:
        return missing == 0
    taken = (missing <= END_LAYERS) & (columns.pipeline_parallel > 1) & (full_stage(problem, columns) > 1)
    return (missing == 0) | (taken & ~columns.schedule_is("zbv"))


def most_chunks(problem: Problem, columns: LayoutColumns) -> Integers:
    """The most chunks of all stages together of which each holds a layer, or one of the ends in its place."""
    ends = END_LAYERS if problem.stack.ends_as_layers else 0
    return problem.model.num_layers + np.where(columns.num_model_chunks > 1, ends, 0)


def even_layers(problem: Problem, stages: StageColumns, where: Booleans) -> Layers:
    """The layers of each stage in the even divisions of its layout, where those are asked for.

    A layout without one has more layers than the model, where the stack has no other division.
    """
    columns, num_layers = stages.layouts, problem.model.num_layers
    each, rest = np.divmod(num_layers, columns.pipeline_parallel)
    shortened = (rest > 0) & divides_evenly(problem, columns)
    full = np.where(rest == 0, each, np.where(shortened, full_stage(problem, columns), 0))
    if not problem.stack.uneven_stages:
        full = np.where(full == 0, num_layers + 1, full)
    full = np.where(where, full, 0)
    return Layers(full - (where & shortened & (stages.is_first | stages.is_last)), full)


def is_even(problem: Problem, layers: Sequence[int], num_chunks: int) -> bool:
    """Whether all stages have equally many layers, up to those whose place the embedding and the head take."""
    if len(set(layers)) <= 1:
        return True
    full = num_chunks * -(-problem.model.num_layers // (len(layers) * num_chunks))
    first, *middle, last = (full - own for own in layers)
    return problem.stack.ends_as_layers and full > 1 and not any(middle) and {first, last} <= {0, 1}


def ends_taken(layout: Layout) -> tuple[bool, bool]:
    """Whether the embedding takes the place of a layer in the first stage, and the head of one in the last."""
    parts = layout.pipeline_parallel * layout.num_model_chunks
    full = layout.num_model_chunks * -(-sum(layout.layers_per_stage) // parts)
    return full > layout.layers_per_stage[0], full > layout.layers_per_stage[-1]
