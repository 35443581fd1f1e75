"""From a table's words for cards and networks to hardware specs."""

import re

import msgspec

from planner.spec import HardwareSpec, NetworkSpec
from planner.spec_files import builtin_names, load_spec
from planner.units import BytesPerSecond
from planner.validation.cases import Assumptions, SkippedRow
from planner.validation.tables import Row

CARDS = {
    ("A100", 40): "a100-40g", ("A100", 80): "a100-80g", ("H100", 80): "h100-80g", ("H200", 141): "h200-141g",
    ("V100", 16): "v100-16g", ("V100", 32): "v100-32g",
}  # fmt: skip
"""Kind and memory in GB to the built-in spec."""

# Network adapters of one node and the one-way rate of each, in Gbit/s.
NETWORKS = {
    "800 Gbps inter-node (config)": (4, 200),
    "NVLink; 4x Omni-Path per node": (4, 100),
    "Jean Zay, 400 Gb Omni-Path": (4, 100),
    "Jean Zay, Omni-Path": (4, 100),
    "1600 Gbps RoCE": (8, 200),
}


def hardware_of(row: Row, default_gb: int, assumed: Assumptions) -> HardwareSpec:
    """The built-in spec of the row's card, with the network that the row names.

    Raises:
        SkippedRow: there is no spec for the card.
    """
    words = row.text("gpu")
    if words in builtin_names(HardwareSpec):
        return _with_network(load_spec(words, HardwareSpec), row.text("interconnect"), assumed)
    match, memory = re.fullmatch(r"([A-Z]+[0-9]+)(-.*)?", words), re.search(r"-([0-9]+)G$", words)
    stated_gb = row.count("gpu_mem_gb") or (int(memory[1]) if memory else None)
    if stated_gb is None:
        assumed.note(f"card memory {default_gb} GB where the table states none")
    name = CARDS.get((match[1], stated_gb or _default_gb(match[1], default_gb))) if match else None
    if name is None:
        raise SkippedRow(f"no hardware spec for {words} {f'{stated_gb} GB' if stated_gb else ''}".strip())
    return _with_network(load_spec(name, HardwareSpec), row.text("interconnect"), assumed)


def _default_gb(kind: str, default_gb: int) -> int:
    return 32 if kind == "V100" else default_gb


def _with_network(hardware: HardwareSpec, words: str, assumed: Assumptions) -> HardwareSpec:
    if words not in NETWORKS:
        return hardware
    nics, gbit_per_s = NETWORKS[words]
    assumed.note(f"network `{words}`: {nics} adapters of {gbit_per_s} Gbit/s a node")
    network: NetworkSpec = msgspec.structs.replace(
        hardware.network, kind=words, nics_per_node=nics, bandwidth_bytes_per_s=BytesPerSecond(gbit_per_s * 1e9 / 8)
    )
    return msgspec.structs.replace(hardware, network=network)
