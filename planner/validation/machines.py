"""From a table's words for cards and networks to hardware specs."""

import re
from typing import NamedTuple

import msgspec

from planner.specs import HardwareSpec, NetworkSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import BytesPerSecond, Seconds
from planner.validation.cases import Assumptions, SkippedRow
from planner.validation.tables import Row

CARDS = {
    ("A100", 40): "a100-40g",
    ("A100", 80): "a100-80g",
    ("H100", 80): "h100-80g",
    ("H200", 141): "h200-141g",
    ("V100", 16): "v100-16g",
    ("V100", 32): "v100-32g",
}
"""Kind and memory in GB to the built-in spec."""


class Network(NamedTuple):
    """The adapters of one node."""

    nics: int
    gbit_per_s: int
    """One-way rate of each."""
    efficiency: float | None = None
    """Share of it that collectives reach, if that was measured there; else the card's spec has it."""
    why: str = ""
    latency_s: float | None = None
    """Of one message, if it is another one than in the card's spec."""


_OMNI_PATH = (
    "BigScience's all-reduce over 32 A100 of four nodes, one ring and so one adapter: 40.5 Gbit/s of bus bandwidth"
)
_EFA = (
    "host and network: read off every second row of the Ultra-Scale Playbook's table, tensor parallelism over 16 and "
    "32 ranks, with 0.3 ms a message"
)
NETWORKS = {
    "800 Gbps inter-node (config)": Network(4, 200),
    "NVLink; 4x Omni-Path per node": Network(4, 100, 0.405, _OMNI_PATH),
    "Jean Zay, 400 Gb Omni-Path": Network(4, 100, 0.405, _OMNI_PATH),
    "Jean Zay, Omni-Path": Network(4, 100, 0.405, _OMNI_PATH),
    "AWS EFA": Network(8, 400, 0.6, _EFA, 3e-4),
    "1600 Gbps RoCE": Network(8, 200),
}


def hardware_of(row: Row, default_gb: int, assumed: Assumptions, network: str = "") -> HardwareSpec:
    """The built-in spec of the row's card, with the network that the row names, else the one that is given.

    Raises:
        SkippedRow: there is no spec for the card.
    """
    words, network = row.text("gpu"), row.text("interconnect") or network
    if words in builtin_names(HardwareSpec):
        return _with_network(load_spec(words, HardwareSpec), network, assumed)
    match, memory = re.fullmatch(r"([A-Z]+[0-9]+)(-.*)?", words), re.search(r"-([0-9]+)G$", words)
    stated_gb = row.count("gpu_mem_gb") or (int(memory[1]) if memory else None)
    if stated_gb is None:
        assumed.note(f"card memory {default_gb} GB where the table states none")
    name = CARDS.get((match[1], stated_gb or _default_gb(match[1], default_gb))) if match else None
    if name is None:
        raise SkippedRow(f"no hardware spec for {words} {f'{stated_gb} GB' if stated_gb else ''}".strip())
    return _with_network(load_spec(name, HardwareSpec), network, assumed)


def _default_gb(kind: str, default_gb: int) -> int:
    return 32 if kind == "V100" else default_gb


def _with_network(hardware: HardwareSpec, words: str, assumed: Assumptions) -> HardwareSpec:
    if words not in NETWORKS:
        return hardware
    known = NETWORKS[words]
    reached = f", of which {100 * known.efficiency:.1f} % are reached ({known.why})" if known.efficiency else ""
    assumed.note(f"network `{words}`: {known.nics} adapters of {known.gbit_per_s} Gbit/s a node{reached}")
    network: NetworkSpec = msgspec.structs.replace(
        hardware.network,
        kind=words,
        nics_per_node=known.nics,
        efficiency=known.efficiency or hardware.network.efficiency,
        latency_s=Seconds(known.latency_s) if known.latency_s else hardware.network.latency_s,
        bandwidth_bytes_per_s=BytesPerSecond(known.gbit_per_s * 1e9 / 8),
    )
    return msgspec.structs.replace(hardware, network=network)
