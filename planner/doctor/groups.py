"""The groups that a plan makes, the link that it assumed for each, and what was measured of them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from planner.calibration.curves import LEAST_TIMINGS, fit_link
from planner.cost_model.rings import axis_strides
from planner.handover.doctor import Axis, GroupTime, RankGroup
from planner.handover.measurements import Collective
from planner.layouts.layout import Layout, columns_of
from planner.layouts.sequences import sequence_stride, tensor_stride
from planner.layouts.stages import stages_of_layout
from planner.layouts.topology import Cluster, GroupLink
from planner.plans.plan import Plan


class AxisGroups(NamedTuple):
    """Groups of ``size`` ranks at distance ``stride``, which tile all ranks."""

    axis: Axis
    stride: int
    size: int


def axes_of(plan: Plan) -> list[AxisGroups]:
    """The axes of a layout that have groups of more than one rank."""
    layout: Layout = plan.layout
    data, pipeline = (int(column[0]) for column in axis_strides(plan.problem, stages_of_layout(layout)))
    columns = columns_of(layout)
    tensor, sequence = (int(stride(plan.problem, columns)[0]) for stride in (tensor_stride, sequence_stride))
    found = [
        AxisGroups("sequence", sequence, layout.sequence_parallel_degree),
        AxisGroups("tensor", tensor, layout.tensor_parallel),
        AxisGroups("pipeline", pipeline, layout.pipeline_parallel),
        AxisGroups("data", data, layout.data_parallel),
    ]
    return [one for one in found if one.size > 1]


def groups_of(axes: Sequence[AxisGroups], num_ranks: int) -> tuple[RankGroup, ...]:
    """All groups of the axes; of a pipeline the pairs of neighbours, in two turns because a rank is in two pairs."""
    found = []
    for axis, stride, size in axes:
        for first in (rank for rank in range(num_ranks) if rank // stride % size == 0):
            ranks = tuple(first + stride * index for index in range(size))
            if axis == "pipeline":
                pairs = enumerate(itertools.pairwise(ranks))
                found += [RankGroup(axis=axis, ranks=pair, turn=index % 2) for index, pair in pairs]
            else:
                found.append(RankGroup(axis=axis, ranks=ranks))
    return tuple(found)


def axes_of_nodes(num_nodes: int, devices_per_node: int) -> list[AxisGroups]:
    """Without a plan: all devices of each node, and the same device of all nodes."""
    found = [AxisGroups("node", 1, devices_per_node), AxisGroups("network", devices_per_node, num_nodes)]
    return [one for one in found if one.size > 1]


def assumed_link(plan: Plan, axis: AxisGroups) -> GroupLink:
    """What the plan's time was predicted with."""
    problem = plan.problem
    cluster = Cluster(
        hardware=problem.hardware, devices_per_node=problem.devices_per_node, num_devices=plan.layout.num_devices
    )
    return (cluster.neighbours if axis.axis == "pipeline" else cluster.ring)(axis.stride, axis.size)


class MeasuredGroup(NamedTuple):
    """What one group reaches while all of its axis communicate."""

    axis: Axis
    ranks: tuple[int, ...]
    bandwidth_bytes_per_s: float
    """One-way, per member."""
    latency_s: float
    """Of one message between neighbours."""
    assumed: GroupLink | None
    """``None`` without a plan."""

    @property
    def share(self) -> float | None:
        """Measured over assumed bandwidth; ``None`` without a plan."""
        return None if self.assumed is None else self.bandwidth_bytes_per_s / self.assumed.bandwidth_bytes_per_s


def measured_groups(plan: Plan | None, times: Sequence[GroupTime]) -> list[MeasuredGroup]:
    """Latency and bandwidth of each group, fitted to its collectives as the cost model has them."""
    assumed = {one.axis: assumed_link(plan, one) for one in axes_of(plan)} if plan is not None else {}
    by_group: dict[tuple[Axis, tuple[int, ...]], list[Collective]] = {}
    for one in times:
        by_group.setdefault((one.axis, one.ranks), []).append(as_collective(one))
    found = []
    for (axis, ranks), collectives in by_group.items():
        if len(collectives) < LEAST_TIMINGS:
            continue
        link = fit_link(collectives)
        found.append(MeasuredGroup(axis, ranks, link.bandwidth_bytes_per_s, link.latency_s, assumed.get(axis)))
    return found


def as_collective(one: GroupTime) -> Collective:
    """The timing of a group, as those of a calibration."""
    return Collective(kind=one.kind, size=len(one.ranks), num_bytes=one.num_bytes, seconds=one.seconds)
