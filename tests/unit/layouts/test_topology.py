"""Links of groups on small clusters: 1e9 B/s and 1 us in a node, 1e8 B/s and 12 us between nodes."""

from typing import Any

import numpy as np
import pytest

from planner.layouts.topology import Cluster, GroupLink, cluster_graph, link_columns, members_per_node, senders_per_nic
from planner.specs import LinkSpec
from planner.specs.units import BytesPerSecond, Seconds
from tests.helpers import tiny_hardware

INSIDE = GroupLink(bandwidth_bytes_per_s=1e9, latency_s=1e-6)
OUTSIDE = GroupLink(bandwidth_bytes_per_s=1e8, latency_s=1e-6 + 1e-5 / 2 + 1e-5 / 2 + 1e-6)
NOTHING = GroupLink(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)


def cluster(num_devices: int, devices_per_node: int = 4, **hardware: Any) -> Cluster:
    """Tiny devices in nodes."""
    return Cluster(hardware=tiny_hardware(**hardware), devices_per_node=devices_per_node, num_devices=num_devices)


def test_a_group_inside_a_node_has_the_node_link() -> None:
    assert cluster(8).ring(stride=1, size=4) == INSIDE
    assert cluster(8).neighbours(stride=1, size=4) == INSIDE
    assert cluster(8).ring(stride=2, size=2) == INSIDE


def test_a_single_device_needs_no_link() -> None:
    assert cluster(1).ring(stride=1, size=1) == NOTHING
    assert cluster(8).neighbours(stride=4, size=1) == NOTHING


def test_one_member_on_each_node_has_the_network() -> None:
    assert cluster(8).ring(stride=4, size=2) == OUTSIDE
    assert cluster(8).neighbours(stride=4, size=2) == OUTSIDE


@pytest.mark.parametrize(("stride", "members", "latency_us"), [(4, 1, 12), (2, 2, (12 + 1) / 2), (1, 4, (12 + 3) / 4)])
def test_a_ring_over_nodes_leaves_each_node_once(stride: int, members: int, latency_us: float) -> None:
    ring = cluster(8).ring(stride=stride, size=8 // stride)
    assert ring.bandwidth_bytes_per_s == members * 1e8
    assert ring.latency_s == pytest.approx(latency_us * 1e-6)


def test_a_group_whose_neighbours_are_apart_touches_as_many_nodes() -> None:
    # Ranks 0, 2 and 4, 6 of eight, and those beside them: two of each group on either node.
    assert members_per_node(4, 2, num_devices=8, devices_per_node=4, adjacent=2, spacing=2) == (2, True)
    assert members_per_node(4, 2, num_devices=8, devices_per_node=8, adjacent=2, spacing=2) == (4, False)
    assert cluster(8).ring(4, 2, 2, 2) == cluster(8).ring(2, 4)


def test_an_exchange_sends_to_every_rank_by_the_way_that_leads_there() -> None:
    assert cluster(8).exchange(stride=1, size=1) == NOTHING
    assert cluster(8).exchange(stride=1, size=4) == INSIDE
    # Of seven ranks four are on the other node, 4 parts at 1e8 B/s; of three none is on its own.
    assert cluster(8).exchange(stride=1, size=8).bandwidth_bytes_per_s == pytest.approx(1e8 * 7 / 4)
    assert cluster(16).exchange(stride=4, size=4) == OUTSIDE
    # A network as fast as eight node links: three parts at 1e9 B/s inside take longer than four outside.
    fast: dict[str, Any] = {"network": {"bandwidth_bytes_per_s": 8e9}, "host": {"device_bandwidth_bytes_per_s": 8e9}}
    assert cluster(8, **fast).exchange(stride=1, size=8).bandwidth_bytes_per_s == pytest.approx(1e9 * 7 / 3)


def test_an_exchange_inside_of_a_node_may_reach_another_share_of_the_link() -> None:
    slower = cluster(8, node_link={"exchange_efficiency": 0.4})
    assert slower.exchange(stride=1, size=4).bandwidth_bytes_per_s == pytest.approx(0.8e9)
    assert slower.ring(stride=1, size=4) == INSIDE


def test_links_are_found_by_several_columns() -> None:
    one, two = np.array([4, 8]), np.array([2, 1])
    bandwidth, _ = link_columns(cluster(8).ring, one, two, np.array([2, 4]), np.array([2, 1]))
    expected = [cluster(8).ring(4, 2, 2, 2), cluster(8).ring(8, 1, 4, 1)]
    assert bandwidth.tolist() == [link.bandwidth_bytes_per_s for link in expected]


def test_the_node_link_limits_many_rings() -> None:
    fast_network: dict[str, Any] = {"network": {"bandwidth_bytes_per_s": 8e8}}
    assert cluster(8, **fast_network).ring(stride=1, size=8).bandwidth_bytes_per_s == 1e9
    assert cluster(8, **fast_network).ring(stride=4, size=2).bandwidth_bytes_per_s == 4e8


def test_the_host_link_limits_a_fast_nic() -> None:
    fast_network: dict[str, Any] = {"network": {"bandwidth_bytes_per_s": 8e9}}
    assert cluster(8, **fast_network).ring(stride=4, size=2).bandwidth_bytes_per_s == 5e8


def test_groups_that_do_not_align_with_nodes_take_the_worst_place() -> None:
    # Six ranks in groups of three on nodes of four: ranks 3 | 4, 5 are split one and two.
    assert members_per_node(1, 3, num_devices=6, devices_per_node=4) == (1, True)
    assert cluster(6).ring(stride=1, size=3) == OUTSIDE
    assert cluster(6).neighbours(stride=1, size=3) == OUTSIDE


@pytest.mark.parametrize(
    ("stride", "size", "expected"),
    [
        (1, 4, (4, False)),
        (1, 2, (2, False)),
        (1, 8, (4, True)),
        (2, 4, (2, True)),
        (4, 2, (1, True)),
        (2, 2, (2, False)),
    ],
)
def test_members_per_node_by_hand(stride: int, size: int, expected: tuple[int, bool]) -> None:
    assert members_per_node(stride, size, num_devices=8, devices_per_node=4) == expected


def test_two_devices_share_one_nic() -> None:
    shared: dict[str, Any] = {"network": {"nics_per_node": 2}}
    assert cluster(8, **shared).ring(stride=4, size=2).bandwidth_bytes_per_s == 0.5e8
    assert cluster(8, **shared).neighbours(stride=4, size=2).bandwidth_bytes_per_s == 0.5e8
    # All four members of a node together still have both NICs.
    assert cluster(8, **shared).ring(stride=1, size=8).bandwidth_bytes_per_s == 2e8


def test_ranks_that_send_to_other_nodes_share_the_nic_next_to_them() -> None:
    one: dict[str, Any] = {"network": {"nics_per_node": 1}}
    # A pipeline of 8 stages over two nodes of 4: only rank 3 sends to the other node. Two of 4 stages: ranks 2 and 3.
    assert cluster(8, **one).neighbours(stride=1, size=8).bandwidth_bytes_per_s == 1e8
    assert cluster(8, **one).neighbours(stride=2, size=4).bandwidth_bytes_per_s == 0.5e8
    assert cluster(8, **one).neighbours(stride=4, size=2).bandwidth_bytes_per_s == 0.25e8
    two: dict[str, Any] = {"network": {"nics_per_node": 2}}
    assert cluster(8, **two).neighbours(stride=2, size=4).bandwidth_bytes_per_s == 0.5e8
    assert senders_per_nic(1, 4, num_devices=8, devices_per_node=4, nics=1) == 0


def test_nodes_may_link_their_devices_in_pairs() -> None:
    bridge = LinkSpec(kind="bridge", bandwidth_bytes_per_s=BytesPerSecond(8e9), latency_s=Seconds(3e-6), efficiency=0.5)
    bridged = Cluster(hardware=tiny_hardware(pair_link=bridge), devices_per_node=4, num_devices=8)
    over_the_bridge = GroupLink(bandwidth_bytes_per_s=4e9, latency_s=3e-6)
    assert bridged.ring(stride=1, size=2) == bridged.neighbours(stride=1, size=2) == over_the_bridge
    assert bridged.ring(stride=4, size=1, adjacent=2) == over_the_bridge
    for stride, size in ((2, 2), (1, 4), (4, 2)):
        assert bridged.ring(stride=stride, size=size) == cluster(8).ring(stride=stride, size=size)
        assert bridged.neighbours(stride=stride, size=size) == cluster(8).neighbours(stride=stride, size=size)
    odd = Cluster(hardware=tiny_hardware(pair_link=bridge), devices_per_node=3, num_devices=6)
    assert (
        odd.ring(stride=1, size=2).bandwidth_bytes_per_s == cluster(6, 3).ring(stride=1, size=2).bandwidth_bytes_per_s
    )


def test_more_nics_than_devices_do_not_help() -> None:
    assert cluster(8, network={"nics_per_node": 8}).ring(stride=4, size=2) == OUTSIDE


def test_nodes_of_one_device_always_use_the_network() -> None:
    assert cluster(4, devices_per_node=1).ring(stride=1, size=4) == OUTSIDE


def test_oversubscription_divides_the_network() -> None:
    assert cluster(8, network={"oversubscription": 2.0}).ring(stride=4, size=2).bandwidth_bytes_per_s == 0.5e8


def test_no_latency_does_not_turn_the_way_inside_a_node() -> None:
    """The node link is the way inside a node, also where its latency is given as 0."""
    for devices in (2, 4):
        ideal = cluster(8, devices, node_link={"latency_s": 0.0}, network={"nics_per_node": 1})
        assert ideal.ring(stride=1, size=2).bandwidth_bytes_per_s == 1e9


def test_the_graph_has_two_nodes_and_a_fabric() -> None:
    graph = cluster_graph(tiny_hardware(), 4)
    assert graph.number_of_nodes() == 2 * (4 + 1 + 4) + 1
    assert graph.edges["fabric", ("nic", 0, 0)]["bandwidth"] == 1e8
    assert graph.edges[("device", 0, 0), ("switch", 0)]["bandwidth"] == 1e9


def test_link_columns_look_up_each_row() -> None:
    bandwidth, latency = link_columns(cluster(8).ring, np.array([1, 4, 1, 8]), np.array([4, 2, 8, 1]))
    assert bandwidth.tolist() == [1e9, 1e8, 4e8, float("inf")]
    assert latency.tolist() == pytest.approx([1e-6, 12e-6, 3.75e-6, 0.0])


def test_a_ring_of_two_has_an_efficiency_of_its_own() -> None:
    links = [
        Cluster(hardware=tiny_hardware(node_link={"pair_efficiency": share}), devices_per_node=4, num_devices=8)
        for share in (None, 0.25)
    ]
    usual, paired = links
    assert usual.ring(1, 2).bandwidth_bytes_per_s == pytest.approx(1e9)
    assert paired.ring(1, 2).bandwidth_bytes_per_s == pytest.approx(5e8)
    for stride, size in ((1, 4), (4, 2), (1, 8)):
        assert paired.ring(stride, size) == usual.ring(stride, size)
    assert paired.neighbours(1, 2) == usual.neighbours(1, 2)


def test_a_ring_of_four_of_more_has_an_efficiency_of_its_own() -> None:
    link = {"quad_efficiency": 0.25}
    in_nodes_of = {
        each: Cluster(hardware=tiny_hardware(node_link=link), devices_per_node=each, num_devices=16) for each in (4, 8)
    }
    assert in_nodes_of[8].ring(1, 4).bandwidth_bytes_per_s == pytest.approx(5e8)
    assert in_nodes_of[8].ring(2, 4).bandwidth_bytes_per_s == pytest.approx(5e8)
    assert in_nodes_of[8].ring(1, 8).bandwidth_bytes_per_s == pytest.approx(1e9)
    assert in_nodes_of[8].ring(1, 2).bandwidth_bytes_per_s == pytest.approx(1e9)
    assert in_nodes_of[4].ring(1, 4).bandwidth_bytes_per_s == pytest.approx(1e9)


def test_two_devices_of_a_mesh_have_their_own_links_alone() -> None:
    link = {"pair_efficiency": 0.125, "quad_efficiency": 0.25}
    in_nodes_of = {
        each: Cluster(hardware=tiny_hardware(node_link=link), devices_per_node=each, num_devices=16)
        for each in (2, 4, 8)
    }
    assert in_nodes_of[8].ring(1, 2).bandwidth_bytes_per_s == pytest.approx(2e9 * 0.125)
    # Each of four has a third of its links to each of the others, one of two all of them.
    assert in_nodes_of[4].ring(1, 2).bandwidth_bytes_per_s == pytest.approx(1e9 / 3)
    assert in_nodes_of[2].ring(1, 2).bandwidth_bytes_per_s == pytest.approx(1e9)
    assert in_nodes_of[8].ring(1, 4).bandwidth_bytes_per_s == pytest.approx(2e9 * 0.25)
    # What one device sends to the next goes over the links that both share.
    assert in_nodes_of[8].neighbours(1, 8).bandwidth_bytes_per_s == pytest.approx(2e9 * 0.125)
    assert in_nodes_of[4].neighbours(1, 4).bandwidth_bytes_per_s == pytest.approx(1e9 / 3)


def test_four_devices_of_a_mesh_that_do_not_follow_each_other_have_a_ring_each_way() -> None:
    mesh = tiny_hardware(node_link={"pair_efficiency": 0.0625, "quad_efficiency": 0.25})
    apart = Cluster(hardware=mesh, devices_per_node=8, num_devices=16)
    assert apart.ring(1, 4).bandwidth_bytes_per_s == pytest.approx(2e9 * 0.25)
    assert apart.ring(2, 4).bandwidth_bytes_per_s == pytest.approx(2e9 * 2 * 0.0625)


def test_one_collective_may_reach_few_adapters_of_a_node() -> None:
    limited = cluster(8, network={"ring_bytes_per_s": 1.5e8})
    # Four members would share four adapters of 1e8 B/s, one has its own.
    assert limited.ring(1, 8).bandwidth_bytes_per_s == pytest.approx(1.5e8)
    assert limited.ring(4, 2) == cluster(8).ring(4, 2)
    assert limited.ring(1, 4) == cluster(8).ring(1, 4)
    assert limited.neighbours(4, 2) == cluster(8).neighbours(4, 2)


def test_what_a_collective_takes_to_start_is_shared_by_its_steps() -> None:
    ring = cluster(8, node_link={"start_s": 6e-6}).ring(stride=1, size=4)
    # An all-reduce over four ranks has six steps.
    assert ring.latency_s == pytest.approx(1e-6 + 1e-6)
    assert cluster(8, node_link={"start_s": 6e-6}).neighbours(stride=1, size=4) == INSIDE
