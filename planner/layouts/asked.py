"""The stages of layouts in a search, with what stack and pins of the problem say that they recompute."""

from dataclasses import replace

import numpy as np

from planner.layouts.division import full_stage, missing_layers
from planner.layouts.layout import LayoutColumns, once_per_table
from planner.layouts.pins import listed_recompute
from planner.layouts.problem import Problem
from planner.layouts.stages import Integers, StageColumns, stages_of


@once_per_table
def asked_stages(problem: Problem, columns: LayoutColumns) -> StageColumns:
    """:func:`stages_of` the layouts of a search, with what stack and pins of the problem say that they recompute.

    Raises:
        ValueError: a layout recomputes as listed, and no pin lists that for as many stages.
    """
    stages, listed = stages_of(columns), listed_recompute(problem.pins)
    if problem.stack.recompute == "alike":
        stages = replace(stages, most_of_some=_most_of_some(problem, stages))
    rows = np.flatnonzero(stages.recomputes_as_listed)
    if not len(rows):
        return stages
    if listed is None or (stages.layouts.pipeline_parallel[rows] != len(listed)).any():
        raise ValueError(f"layouts recompute as listed, and the list is {listed}")
    counts = np.zeros_like(stages.num_layers)
    counts[rows] = np.array(listed)[stages.stage[rows]]
    stages = replace(stages, listed_recompute=counts)
    return stages.with_layers(stages.num_layers)


def _most_of_some(problem: Problem, stages: StageColumns) -> Integers:
    """The most of their layers that all stages, and all of their chunks, recompute alike and that are not all.

    One layer of each chunk is left, and one of a stage whose only chunk lacks a layer.
    """
    left = np.where(missing_layers(problem, stages.layouts) > 0, 2, 1)
    return np.asarray(full_stage(problem, stages.layouts) - np.maximum(left, stages.layouts.num_model_chunks))
