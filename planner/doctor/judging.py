"""What is off, from what the nodes told and what their ranks measured."""

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from planner.diagnostics import Diagnostic
from planner.doctor.facts import UNLIMITED, Facts
from planner.doctor.groups import MeasuredGroup
from planner.handover.doctor import CPU, DoctorFound, RankFound
from planner.launch.meeting import is_loopback
from planner.plans.plan import Plan
from planner.specs.units import GIB, format_bytes, format_rate

DIFFERS, CLOCK, FOLDER, UNREACHED, DEVICE, LINK, IN_USE, LIMITS, NETWORK, UNFINISHED, NAME = (
    f"DOC{number:03}" for number in range(1, 12)
)
MOST_CLOCK_S = 1.0
"""Clocks further apart make times in logs and of files misleading, and certificates fail."""
LEAST_RATE = {"cuda": 0.8, "cpu": 0.4}
"""Of the median device's rate: GPUs of one kind differ by a few percent, cores by what else runs on them."""
LEAST_LINK = 0.5
"""Of the bandwidth that the plan assumed: collectives of one link vary by some ten percent."""
LEAST_SHARED_BYTES = GIB
"""What NCCL's guide has containers give to /dev/shm (docs.nvidia.com/deeplearning/nccl, Troubleshooting)."""
IDLE_BYTES = GIB
"""What a GPU without any process may have in use; the driver takes less."""


class Told(NamedTuple):
    """What node 0 knows after the nodes met."""

    plan: Plan | None
    facts: Sequence[Facts]
    clocks_s: dict[int, float]
    """Node to how far its clock is ahead of that of node 0."""
    unseen: dict[int, list[str]]
    """Node to the folders of node 0 that it does not see."""
    unreached: dict[int, list[int]]
    """Node to the nodes that it does not reach."""
    silent: Sequence[int]
    """Nodes that came and did not answer."""


def of_nodes(told: Told) -> Iterator[Diagnostic]:
    """What is off before anything is measured."""
    for node in told.silent:
        yield _found(UNREACHED, f"node {node}", "it came, and then gave no answer", "see what it printed")
    for one in told.facts:
        yield from (msgspec.structs.replace(problem, location=_node(one)) for problem in one.problems)
    first = told.facts[0]
    for other in told.facts[1:]:
        yield from _differences(first, other)
    yield from _clocks(told)
    yield from _between(told)
    for one in told.facts if len(told.facts) > 1 else ():
        yield from _name(one)
    for one in told.facts:
        yield from _memory_in_use(one, told.plan)
        yield from _limits(one, told.plan)


def _between(told: Told) -> Iterator[Diagnostic]:
    for node, folders in told.unseen.items():
        for folder in folders:
            hint = "name a folder on a file system that all nodes share with `--run-dir`"
            message = f"it does not see {folder} of node 0, into which the ranks of all nodes write checkpoints"
            yield _found(FOLDER, f"node {node}", message, hint)
    for node, others in told.unreached.items():
        for other in others:
            there = next(one for one in told.facts if one.node == other)
            message = f"it does not reach node {other} at {there.address}:{there.port}"
            hint = "open all ports between the nodes; ranks connect to ports that the kernel chooses"
            yield _found(UNREACHED, f"node {node}", message, hint)


def is_fatal(found: Sequence[Diagnostic]) -> bool:
    """Whether ranks would not start, or not reach each other."""
    return any(one.severity == "error" and (one.rule.startswith("RUN") or one.rule == UNREACHED) for one in found) or (
        any(one.rule == DIFFERS and one.values.get("what") == "devices" for one in found)
    )


def of_ranks(
    plan: Plan | None, found: DoctorFound, groups: Sequence[MeasuredGroup], num_ranks: int, per_node: int
) -> Iterator[Diagnostic]:
    """What is off of what the ranks measured, of which a node has ``per_node``; ``groups`` are the links of it."""
    yield from _missing(found, num_ranks, per_node)
    yield from _slow(found.ranks, per_node)
    yield from _other_versions(found.ranks, per_node)
    yield from _links(groups, per_node)
    yield from _networks(plan, found.networks, per_node)
    if found.phase and len(found.ranks) == num_ranks:
        message = f"the ranks did not come to an end with this: {found.phase}"
        yield _found(UNFINISHED, "all nodes", message, "see what they printed; look at the network between the nodes")


def _found(rule: str, location: str, message: str, hint: str, severity: str = "error", **values: object) -> Diagnostic:
    return Diagnostic(rule=rule, severity=severity, location=location, message=message, hint=hint, values=values)


def _node(one: Facts) -> str:
    return f"node {one.node} ({one.host})"


def _differences(first: Facts, other: Facts) -> Iterator[Diagnostic]:
    for name, version in first.versions.items():
        here = other.versions.get(name, "")
        if here != version:
            message = f"{name} is {here or 'not installed'}, and {version or 'not installed'} on node 0"
            yield _found(DIFFERS, _node(other), message, "use one environment on all nodes", what=name)
    if other.devices != first.devices:
        here, there = (", ".join(one.devices) or "no GPU" for one in (other, first))
        message = f"it has {here}, and node 0 has {there}: nodes of different kinds are not planned for yet"
        yield _found(DIFFERS, _node(other), message, "use nodes of one kind", what="devices")
    if other.driver != first.driver and other.driver and first.driver:
        message = f"the driver is {other.driver}, and {first.driver} on node 0"
        yield _found(DIFFERS, _node(other), message, "use nodes with one driver", what="driver")
    if other.mtu != first.mtu and other.mtu and first.mtu:
        message = f"{other.interface} has an MTU of {other.mtu} bytes, and {first.interface} of node 0 {first.mtu}"
        yield _found(DIFFERS, _node(other), message, "set one MTU on all nodes", severity="warning", what="MTU")
    for path, digest in first.data.items():
        here = other.data.get(path, "")
        if here != digest:
            what = "is not there" if not here else "is not there on node 0" if not digest else "has other files"
            yield _found(FOLDER, _node(other), f"{path} {what}", "have the same data and tokenizer on all nodes")


def _clocks(told: Told) -> Iterator[Diagnostic]:
    for node, ahead_s in told.clocks_s.items():
        if abs(ahead_s) > MOST_CLOCK_S:
            where = "ahead of" if ahead_s > 0 else "behind"
            message = f"its clock is {abs(ahead_s):.1f} s {where} that of node 0"
            yield _found(CLOCK, f"node {node}", message, "run chrony or ntpd on all nodes")


def _name(one: Facts) -> Iterator[Diagnostic]:
    """What asks for the node's own name, as other programs and scripts do, has to get where others reach it."""
    if one.host_address and not is_loopback(one.host_address):
        return
    message = f"its own name, {one.host}, is {one.host_address or 'no address that it finds'}"
    message += ", where no other node reaches it" if one.host_address else ""
    hint = f"have `{one.host}` stand for {one.address} in its /etc/hosts, and name that address with `--rendezvous`"
    yield _found(NAME, _node(one), message, hint, "warning", address=one.host_address)


def _memory_in_use(one: Facts, plan: Plan | None) -> Iterator[Diagnostic]:
    needed = max((stage.peak_bytes for stage in plan.predicted.stages), default=0) if plan is not None else 0
    for number, gpu in enumerate(one.gpus):
        free = gpu.total_bytes - gpu.used_bytes
        if gpu.used_bytes <= IDLE_BYTES:
            continue
        message = f"{format_bytes(gpu.used_bytes)} of {format_bytes(gpu.total_bytes)} are in use"
        if plan is not None:
            message += f", and the plan needs {format_bytes(needed)}"
        fits = plan is not None and needed <= free
        where = f"{_node(one)}, GPU {number}"
        yield _found(IN_USE, where, message, "`nvidia-smi` shows what runs there", "warning" if fits else "error")


def _limits(one: Facts, plan: Plan | None) -> Iterator[Diagnostic]:
    if len(one.gpus) < 2:  # noqa: PLR2004 - alone, a GPU talks to no other
        return
    if one.shared_memory_bytes < LEAST_SHARED_BYTES:
        message = f"{format_bytes(one.shared_memory_bytes)} are free in /dev/shm, through which GPUs of a node may talk"
        yield _found(LIMITS, _node(one), message, "start the container with `--shm-size=1g`", "warning")
    on_network = plan is not None and plan.problem.num_nodes > 1 and "infiniband" in _network_kind(plan)
    if on_network and one.locked_bytes != UNLIMITED:
        message = f"a process may lock {format_bytes(one.locked_bytes)}, and InfiniBand locks what it sends"
        yield _found(LIMITS, _node(one), message, "`ulimit -l unlimited` where the job is started", "warning")


def _network_kind(plan: Plan) -> str:
    return plan.problem.hardware.network.kind.lower()


def place(rank: int, per_node: int) -> str:
    """Where a rank is, in words."""
    return f"node {rank // per_node}, device {rank % per_node}"


def _missing(found: DoctorFound, num_ranks: int, per_node: int) -> Iterator[Diagnostic]:
    here = {one.rank for one in found.ranks}
    for rank in range(num_ranks):
        if rank not in here and (found.ranks or rank == 0):
            message = "it did not come to an end with a matrix product: it is stuck, or its process is"
            yield _found(DEVICE, place(rank, per_node), message, "reset or replace it; `dmesg` may have an Xid of it")


def rates(ranks: Sequence[RankFound]) -> dict[int, float]:
    """FLOP/s of the largest product that every rank has measured, by rank; empty where there is none."""
    by_rank = {one.rank: {(product.m, product.k, product.n): product for product in one.products} for one in ranks}
    common = set.intersection(*(set(one) for one in by_rank.values())) if by_rank else set()
    if not common:
        return {}
    largest = max(common, key=lambda shape: (shape[0] * shape[1] * shape[2], shape))
    return {rank: products[largest].flops_per_s for rank, products in by_rank.items()}


def _slow(ranks: Sequence[RankFound], per_node: int) -> Iterator[Diagnostic]:
    found, least = rates(ranks), LEAST_RATE["cpu" if ranks and ranks[0].device_name == CPU else "cuda"]
    if len(found) < 2:  # noqa: PLR2004 - one device is as fast as itself
        return
    for rank, rate in found.items():
        # Of two devices none is in the middle, so that each is judged by the others.
        usual = statistics.median(one for other, one in found.items() if other != rank)
        if rate < least * usual:
            message = (
                f"it multiplies matrices at {format_rate(rate, 'FLOP/s')}, {rate / usual:.0%} of the others' "
                f"{format_rate(usual, 'FLOP/s')}"
            )
            hint = "look at its temperature, its clock and what else runs there; every rank waits for the slowest"
            yield _found(DEVICE, place(rank, per_node), message, hint)


def _other_versions(ranks: Sequence[RankFound], per_node: int) -> Iterator[Diagnostic]:
    for one in ranks[1:]:
        for name, version in one.versions.items():
            other = ranks[0].versions.get(name)
            if version != other and one.rank % per_node == 0:
                message = f"{name} is {version}, and {other} on node 0"
                yield _found(DIFFERS, place(one.rank, per_node), message, "use one environment on all nodes", what=name)


def _links(groups: Sequence[MeasuredGroup], per_node: int) -> Iterator[Diagnostic]:
    for one in groups:
        if one.share is None or one.assumed is None or one.share >= LEAST_LINK:
            continue
        nodes = sorted({rank // per_node for rank in one.ranks})
        message = (
            f"its {one.axis}-parallel group reaches {format_rate(one.bandwidth_bytes_per_s, 'B/s')}, and the plan "
            f"assumed {format_rate(one.assumed.bandwidth_bytes_per_s, 'B/s')}"
        )
        hint = "mend the link, or measure it with `--write FILE.toml` and solve again with `--gpu FILE.toml`"
        where = f"ranks {', '.join(map(str, one.ranks))} on node {', '.join(map(str, nodes))}"
        yield _found(LINK, where, message, hint, axis=one.axis)


def _networks(plan: Plan | None, networks: dict[int, str], per_node: int) -> Iterator[Diagnostic]:
    kinds = {rank: text.partition(" ")[0] for rank, text in networks.items() if text}
    for rank, kind in kinds.items():
        if rank % per_node == 0 and kind != kinds.get(0, kind):
            message = f"NCCL chose {networks[rank]}, and {networks[0]} on node 0"
            yield _found(NETWORK, place(rank, per_node), message, "set NCCL_NET and NCCL_IB_HCA the same on all nodes")
    wants = plan is not None and plan.problem.num_nodes > 1 and "infiniband" in _network_kind(plan)
    if wants and any(kind == "Socket" for kind in kinds.values()):
        message = "NCCL chose sockets, and the plan was made for InfiniBand"
        hint = "see `ibstat`, and whether NCCL_IB_DISABLE is set; containers need /dev/infiniband"
        yield _found(NETWORK, "all nodes", message, hint)
