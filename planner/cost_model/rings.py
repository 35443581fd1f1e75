"""Rings over groups of ranks: their links and what a collective takes."""

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.layout import LayoutColumns
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns
from planner.layouts.topology import Cluster, link_columns


@formula("thakur2005")
def ring_seconds(
    num_bytes: Floats, size: Integers, steps: float, bandwidth_bytes_per_s: Floats, latency_s: Floats
) -> Floats:
    """A ring collective over ``size`` ranks: ``steps (n-1)/n bytes / bandwidth + steps (n-1) latency``.

    ``steps`` is 2 for all-reduce, 1 for reduce-scatter and all-gather. No time for one rank. Units: s.
    """
    share = (size - 1) / size
    return np.where(size > 1, steps * (share * num_bytes / bandwidth_bytes_per_s + (size - 1) * latency_s), 0.0)


def cluster_of(problem: Problem) -> Cluster:
    """The devices of a problem."""
    return Cluster(
        hardware=problem.hardware, devices_per_node=problem.devices_per_node, num_devices=problem.num_devices
    )


def ring_links(problem: Problem, strides: Integers, sizes: Integers) -> tuple[Floats, Floats]:
    """Bandwidth (bytes/s) and latency (s) of rings over groups of that stride and size, row by row."""
    return link_columns(cluster_of(problem).ring, strides, sizes)


def expert_axis_apart(problem: Problem, columns: LayoutColumns) -> bool:
    """Whether the ranks that divide experts are an axis between the pipeline's and the tensor-parallel one."""
    inside = problem.stack.rank_order == "data-pipeline-tensor" and problem.stack.experts.by_tensor
    return inside and bool((columns.expert_parallel > 1).any())


@formula("narayanan2021", "colossalai0.5.0")
def axis_strides(problem: Problem, stages: StageColumns) -> tuple[Integers, Integers]:
    """Distance of neighbouring ranks along the data and the pipeline axis, in ranks, by the stack's order.

    Where the order puts the pipeline inside of data parallelism, ranks that divide experts are inside of the pipeline.
    """
    columns = stages.layouts
    tensor = columns.tensor_parallel * columns.sequence_parallel_degree
    if expert_axis_apart(problem, columns):
        tensor = tensor * columns.expert_parallel
    if problem.stack.rank_order == "pipeline-data-tensor":
        return tensor, tensor * columns.data_parallel
    return tensor * columns.pipeline_parallel, tensor
