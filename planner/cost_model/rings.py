"""Rings over groups of ranks: their links and what a collective takes."""

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers
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
