"""The groups of a plan, the link that was assumed for each, and what makes a group too slow."""

from pathlib import Path

import pytest

from planner.doctor.groups import axes_of, axes_of_nodes, groups_of, measured_groups
from planner.doctor.judging import of_ranks, rates
from planner.handover.doctor import DoctorFound, GroupTime, RankFound
from planner.handover.measurements import Product
from planner.plans.plan import Plan, read_plan

PLANS = Path(__file__).parents[3] / "plans"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return read_plan(PLANS / "gpt3-96xa100-40g.plan")


def test_groups_are_those_of_the_layout(plan: Plan) -> None:
    layout = plan.layout
    axes = axes_of(plan)
    groups = groups_of(axes, layout.num_devices)
    by_axis = {axis.axis: [one.ranks for one in groups if one.axis == axis.axis] for axis in axes}
    stride = layout.tensor_parallel * layout.pipeline_parallel
    tensor = layout.tensor_parallel
    if layout.tensor_parallel > 1:
        assert by_axis["tensor"][0] == tuple(range(tensor))
    if layout.data_parallel > 1:
        assert by_axis["data"][0] == tuple(range(0, stride * layout.data_parallel, stride))
    assert len(by_axis["pipeline"]) == (layout.pipeline_parallel - 1) * layout.num_devices // layout.pipeline_parallel
    assert by_axis["pipeline"][:2] == [(0, tensor), (tensor, 2 * tensor)]
    for axis in axes:
        for turn in (0, 1):
            ranks = [rank for one in groups if (one.axis, one.turn) == (axis.axis, turn) for rank in one.ranks]
            assert len(ranks) == len(set(ranks)), "a rank is in one group at a time"


def test_without_a_plan_nodes_and_the_network_between_them_are_measured() -> None:
    groups = groups_of(axes_of_nodes(2, 2), 4)
    assert [(one.axis, one.ranks) for one in groups] == [
        ("node", (0, 1)),
        ("node", (2, 3)),
        ("network", (0, 2)),
        ("network", (1, 3)),
    ]


def test_a_link_is_off_below_half_of_what_was_assumed(plan: Plan) -> None:
    def found(share: float) -> list[str]:
        ranks = (0, plan.layout.tensor_parallel)
        assumed = next(one for one in measured_groups(plan, timed(ranks, 1.0)) if one.axis == "pipeline").assumed
        assert assumed is not None
        times = timed(ranks, share * assumed.bandwidth_bytes_per_s)
        told = of_ranks(plan, DoctorFound(ranks=(rank(0, 1.0),)), measured_groups(plan, times), 1, 8)
        return [one.rule for one in told]

    assert found(0.6) == []
    assert found(0.4) == ["DOC006"]


def timed(ranks: tuple[int, ...], bandwidth: float) -> tuple[GroupTime, ...]:
    return tuple(
        GroupTime(axis="pipeline", ranks=ranks, kind="send", num_bytes=size, seconds=1e-5 + size / bandwidth)
        for size in (4096, 2**20, 2**24)
    )


def rank(number: int, seconds: float, shapes: int = 2) -> RankFound:
    products = [Product(precision="bf16", m=2**one, k=8, n=8, seconds=seconds * 2**one) for one in range(shapes)]
    return RankFound(rank=number, device_name="NVIDIA A100", products=tuple(products), versions={})


def test_a_slow_device_is_one_below_the_others() -> None:
    ranks = (rank(0, 1.0), rank(1, 1.05), rank(2, 1.3, shapes=1), rank(3, 1.0))
    assert rates(ranks) == {0: 128.0, 1: pytest.approx(122, 0.01), 2: pytest.approx(98.5, 0.01), 3: 128.0}
    (slow,) = of_ranks(None, DoctorFound(ranks=ranks), [], 4, 2)
    assert (slow.rule, slow.location) == ("DOC005", "node 1, device 0")
    assert "77% of the others'" in slow.message


def test_ranks_without_an_answer_are_stuck() -> None:
    (stuck,) = of_ranks(None, DoctorFound(ranks=(rank(0, 1.0),), phase="matrix products"), [], 2, 2)
    assert (stuck.rule, stuck.location) == ("DOC005", "node 0, device 1")
