"""The cluster as a graph, and the link that a group of ranks gets from it.

Ranks fill nodes in order. A layout numbers them ``((data * PP + pipeline) * TP + tensor) * SP + sequence``, the
order in which Colossal-AI lays out its mesh (process group mesh of ``HybridParallelPlugin``), or with the first two
axes changed, as Megatron-LM does: the stack's ``rank_order``.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from planner.specs import HardwareSpec

PAIR, QUAD = 2, 4


@dataclass(frozen=True, kw_only=True)
class GroupLink:
    """What a ring over one group can use while all groups of its kind communicate."""

    bandwidth_bytes_per_s: float
    """One-way, per member."""
    latency_s: float
    """Of one message between neighbours."""


@lru_cache(maxsize=64)
def _graph_of_kind(
    devices: int, nics: int, link: tuple[float, float], nic: tuple[float, float], host_bytes_per_s: float
) -> nx.Graph:
    graph = nx.Graph()
    for node in (0, 1):
        for device in range(devices):
            graph.add_edge(("device", node, device), ("switch", node), bandwidth=link[0], latency=link[1] / 2)
            port = ("nic", node, device * nics // devices)
            graph.add_edge(("device", node, device), port, bandwidth=host_bytes_per_s, latency=link[1])
        for port_index in range(nics):
            graph.add_edge(("nic", node, port_index), "fabric", bandwidth=nic[0], latency=nic[1] / 2)
    return graph


def cluster_graph(hardware: HardwareSpec, devices_per_node: int) -> nx.Graph:
    """Two nodes and the fabric between them; every further node is like these.

    Edges have ``bandwidth`` (one-way, bytes/s, after protocol efficiency) and ``latency`` (s).
    """
    link, network = hardware.node_link, hardware.network
    return _graph_of_kind(
        devices_per_node,
        min(network.nics_per_node, devices_per_node),
        (link.bandwidth_bytes_per_s * link.efficiency, link.latency_s),
        (network.bandwidth_bytes_per_s * network.efficiency / network.oversubscription, network.latency_s),
        hardware.host.device_bandwidth_bytes_per_s,
    )


@lru_cache(maxsize=256)
def _path(graph: nx.Graph, source: tuple[str, int, int], target: tuple[str, int, int]) -> GroupLink:
    nodes = nx.shortest_path(graph, source, target, weight="latency")
    edges = [graph.edges[pair] for pair in itertools.pairwise(nodes)]
    return GroupLink(
        bandwidth_bytes_per_s=min(edge["bandwidth"] for edge in edges), latency_s=sum(edge["latency"] for edge in edges)
    )


@lru_cache(maxsize=1024)
def members_per_node(
    stride: int, size: int, num_devices: int, devices_per_node: int, adjacent: int = 1, spacing: int = 1
) -> tuple[int, bool]:
    """The fewest members that a group has on a node it touches, and whether any group leaves its node.

    A group is ``size`` times ``adjacent`` ranks that follow each other, ``spacing`` apart, at distance ``stride``; the
    groups tile all ``num_devices`` ranks.
    """
    ranks = np.arange(num_devices)
    within = ranks % stride // (adjacent * spacing) * spacing + ranks % spacing
    group = ranks // (stride * size) * (stride // adjacent) + within
    node = ranks // devices_per_node
    num_nodes = int(node[-1]) + 1
    places, counts = np.unique(group * num_nodes + node, return_counts=True)
    nodes_of_group = np.bincount(places // num_nodes)
    return int(counts.min()), bool((nodes_of_group > 1).any())


@lru_cache(maxsize=1024)
def senders_per_nic(stride: int, size: int, num_devices: int, devices_per_node: int, nics: int) -> int:
    """How many ranks at most send to their next one in a group, or receive from the one before, through one NIC.

    A rank uses the NIC next to it: NICs are dealt to the devices of a node in order. Only ranks whose neighbour is on
    another node do; 0 where none is.
    """
    ranks = np.arange(num_devices)
    sends = ranks[ranks // stride % size < size - 1]
    ends = sends + stride
    apart = (sends // devices_per_node != ends // devices_per_node) & (ends < num_devices)
    used = min(nics, devices_per_node)
    busiest = 0
    for side in (sends[apart], ends[apart]):
        port = side // devices_per_node * used + side % devices_per_node * used // devices_per_node
        busiest = max(busiest, int(np.bincount(port).max(initial=0)))
    return busiest


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A number of devices in nodes; answers which link a kind of group has.

    Groups are ``size`` ranks at distance ``stride`` and tile all ranks; all groups of a kind
    communicate at the same time.
    """

    hardware: HardwareSpec
    devices_per_node: int
    num_devices: int

    def _inside(self) -> GroupLink:
        graph = cluster_graph(self.hardware, self.devices_per_node)
        return _path(graph, ("device", 0, 0), ("device", 0, 1))

    def _linked_pair(self, stride: int, size: int, adjacent: int = 1) -> GroupLink | None:
        """The link of neighbours that nodes link in pairs; ``None`` where the groups are no such pairs, or nothing is.

        Ranks fill nodes in order and groups tile them, so that two ranks that follow each other begin at an even one.
        """
        link, side_by_side = self.hardware.pair_link, (stride, size, adjacent) == (1, PAIR, 1)
        if link is None or self.devices_per_node % PAIR or not (side_by_side or (size, adjacent) == (1, PAIR)):
            return None
        return GroupLink(
            bandwidth_bytes_per_s=float(link.bandwidth_bytes_per_s) * link.efficiency, latency_s=float(link.latency_s)
        )

    def _few(self, members: int, stride: int = 1) -> GroupLink:
        """The link of a collective over some devices of a node: two, or four of more, may reach less of it than all."""
        link, inside = self.hardware.node_link, self._inside()
        share = self._reached(members, stride) / link.efficiency
        return replace(inside, bandwidth_bytes_per_s=inside.bandwidth_bytes_per_s * share)

    def _reached(self, members: int, stride: int) -> float:
        """Share of the node link's bandwidth that a collective over that many devices of a node reaches.

        A mesh, whose spec knows four of more, joins those of a node of four each to each, so that two of them have an
        equal share of their links. Four that do not follow each other have single links, a ring each way.
        """
        link, devices = self.hardware.node_link, self.devices_per_node
        if members == PAIR and self._is_mesh and devices <= QUAD:
            return link.efficiency / (devices - 1)
        if members == PAIR:
            return link.pair_efficiency or link.efficiency
        if members == QUAD and devices > QUAD:
            apart = 2.0 * (link.pair_efficiency or 1.0) if self._is_mesh and stride > 1 else 1.0
            return min(link.quad_efficiency or link.efficiency, apart)
        return link.efficiency

    @property
    def _is_mesh(self) -> bool:
        """Whether links join devices of a node to each other, and no switch all of them."""
        return self.hardware.node_link.quad_efficiency is not None

    def _between_nodes(self) -> GroupLink:
        """One device's way to another node, with a NIC to itself."""
        graph = cluster_graph(self.hardware, self.devices_per_node)
        return _path(graph, ("device", 0, 0), ("device", 1, 0))

    def _outside(self) -> GroupLink:
        """One device's way to another node, with its share of the node's NICs."""
        path = self._between_nodes()
        share = min(1.0, self.hardware.network.nics_per_node / self.devices_per_node)
        return GroupLink(bandwidth_bytes_per_s=path.bandwidth_bytes_per_s * share, latency_s=path.latency_s)

    def ring(self, stride: int, size: int, adjacent: int = 1, spacing: int = 1) -> GroupLink:
        """The link of a ring collective over ``size`` times ``adjacent`` ranks that follow each other.

        Those that follow each other may be ``spacing`` apart.

        Between nodes a group runs one ring for each member it has on a node, each leaving through
        its own share of the NICs, all of them together at no more than the network's rate of one collective where the
        spec has it; inside the node the rings share the node link. Of a ring's steps one
        for each node leaves it, so that the latency of a step is the mean over a node's members. What a
        collective takes to start counts to the latencies of its steps.
        """
        members = size * adjacent
        if members == 1:
            return GroupLink(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
        link, start_s = (
            self._ring(stride, size, adjacent, spacing),
            self.hardware.node_link.start_s / (2 * (members - 1)),
        )
        return GroupLink(bandwidth_bytes_per_s=link.bandwidth_bytes_per_s, latency_s=link.latency_s + start_s)

    def _ring(self, stride: int, size: int, adjacent: int, spacing: int) -> GroupLink:
        members, crosses = members_per_node(stride, size, self.num_devices, self.devices_per_node, adjacent, spacing)
        if not crosses:
            linked = self._linked_pair(stride, size, adjacent) if spacing == 1 else None
            if linked is not None:
                return linked
            return self._few(size * adjacent, stride if adjacent == 1 else 1)
        outside, most = self._outside(), self.hardware.network.ring_bytes_per_s
        bandwidth, latency = outside.bandwidth_bytes_per_s * members, outside.latency_s
        bandwidth = bandwidth if most is None else min(bandwidth, float(most))
        if members > 1:
            inside = self._inside()
            bandwidth = min(bandwidth, inside.bandwidth_bytes_per_s)
            latency = (latency + (members - 1) * inside.latency_s) / members
        return GroupLink(bandwidth_bytes_per_s=bandwidth, latency_s=latency)

    def exchange(self, stride: int, size: int) -> GroupLink:
        """The link of an all-to-all over ``size`` ranks, by what a rank sends to all others together.

        It sends equally much to each: what goes to ranks of its node over the node link, at the same time what goes to
        other nodes through its share of the NICs. The slower of both tells.
        """
        if size == 1:
            return GroupLink(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
        members, crosses = members_per_node(stride, size, self.num_devices, self.devices_per_node)
        inside = self._linked_pair(stride, size) or self._exchanging(size)
        if not crosses:
            return inside
        outside, others = self._outside(), size - 1
        bandwidth = outside.bandwidth_bytes_per_s * others / (size - members)
        if members > 1:
            bandwidth = min(bandwidth, inside.bandwidth_bytes_per_s * others / (members - 1))
        return GroupLink(bandwidth_bytes_per_s=bandwidth, latency_s=outside.latency_s)

    def _exchanging(self, size: int) -> GroupLink:
        """The node link of an all-to-all."""
        link = self.hardware.node_link
        if link.exchange_efficiency is None:
            return self._few(size)
        inside = self._inside()
        bandwidth = inside.bandwidth_bytes_per_s * link.exchange_efficiency / link.efficiency
        return replace(inside, bandwidth_bytes_per_s=bandwidth)

    def neighbours(self, stride: int, size: int) -> GroupLink:
        """The slowest link between two ranks that follow each other in a group, while all groups send.

        Ranks that send to other nodes at once share the NIC next to them; those that send inside the node need none.
        """
        if size == 1:
            return GroupLink(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
        nics = self.hardware.network.nics_per_node
        senders = senders_per_nic(stride, size, self.num_devices, self.devices_per_node, nics)
        if not senders:
            return self._linked_pair(stride, size) or (self._few(PAIR) if self._is_mesh else self._inside())
        path = self._between_nodes()
        return replace(path, bandwidth_bytes_per_s=path.bandwidth_bytes_per_s / senders)

    def ends(self, stride: int, size: int) -> GroupLink:
        """The link between the first and the last rank of a group, the slowest over all groups."""
        if size == 1:
            return GroupLink(bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
        ranks = np.arange(self.num_devices)
        first = ranks[ranks // stride % size == 0]
        last = first + stride * (size - 1)
        apart = first // self.devices_per_node != last // self.devices_per_node
        return self._outside() if apart.any() else self._inside()


SMALL_TABLE = 2**22
"""Numbers below which a table of them all is filled sooner than a column of them is sorted."""


def link_columns(
    link_of: Callable[..., GroupLink], strides: NDArray[np.int64], *sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bandwidth (bytes/s) and latency (s) of ``link_of(stride, size)``, one row per stride and size.

    Sizes may be several columns: those of a group, the ranks that follow each other in it, and how far apart those are.
    """
    # One number per row: NumPy finds unique numbers much faster than unique rows.
    above, numbers = [int(column.max(initial=0)) + 1 for column in sizes], strides
    for column, base in zip(sizes, above, strict=True):
        numbers = numbers * base + column
    keys, inverse = _distinct(numbers)
    links = [link_of(*_digits(int(key), above)) for key in keys]
    bandwidth = np.array([link.bandwidth_bytes_per_s for link in links])
    latency = np.array([link.latency_s for link in links])
    return bandwidth[inverse], latency[inverse]


def _distinct(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distinct numbers, none below 0, in order, and which of them each is."""
    most = int(numbers.max(initial=0))
    if most >= SMALL_TABLE:
        keys, inverse = np.unique(numbers, return_inverse=True)
        return keys, inverse.ravel()
    table = np.zeros(most + 1, dtype=np.int64)
    table[numbers] = 1
    keys = np.flatnonzero(table)
    table[keys] = np.arange(len(keys))
    return keys, table[numbers]


def _digits(number: int, bases: list[int]) -> list[int]:
    """The last digits of a number, each of its base, behind what is left of it."""
    digits: list[int] = []
    for base in reversed(bases):
        number, digit = divmod(number, base)
        digits.insert(0, digit)
    return [number, *digits]
