"""From a table's words for cards and networks to hardware specs."""

import re

import msgspec

from planner.specs import HardwareSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.networks import network_in, network_text, with_network
from planner.specs.units import FlopsPerSecond
from planner.validation.cases import Assumptions, SkippedRow
from planner.validation.facts import KnownFacts, KnownNetwork
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


def hardware_of(row: Row, default_gb: int, assumed: Assumptions, known: KnownFacts, network: str = "") -> HardwareSpec:
    """The built-in spec of the row's card, with the network that the row names, else the one that is given.

    What a name means in one set alone has the set before it, ``IBM-fms: 400 Gbps``.

    Raises:
        SkippedRow: there is no spec for the card.
    """
    words = row.text("interconnect") or network
    found = known.networks.get(f"{row.set_name}: {words}") or known.networks.get(words)
    return _with_network(_card(row, default_gb, assumed), words, assumed, found)


def _card(row: Row, default_gb: int, assumed: Assumptions) -> HardwareSpec:
    words = row.text("gpu")
    if words.lower() in builtin_names(HardwareSpec):
        return load_spec(words.lower(), HardwareSpec)
    match, memory = re.fullmatch(r"([A-Z]+[0-9]+)(-.*)?", words), re.search(r"-([0-9]+)G$", words)
    stated_gb = row.count("gpu_mem_gb") or (int(memory[1]) if memory else None)
    if stated_gb is None:
        assumed.note(f"card memory {default_gb} GB where the table states none")
    name = CARDS.get((match[1], stated_gb or _default_gb(match[1], default_gb))) if match else None
    if name is None:
        raise SkippedRow(f"no hardware spec for {words} {f'{stated_gb} GB' if stated_gb else ''}".strip())
    return load_spec(name, HardwareSpec)


def _default_gb(kind: str, default_gb: int) -> int:
    return 32 if kind == "V100" else default_gb


def _with_network(hardware: HardwareSpec, words: str, assumed: Assumptions, found: KnownNetwork | None) -> HardwareSpec:
    """The card with the network that ``words`` name or write out; its own where they tell no adapters."""
    try:
        nics, rate = network_in(found.adapters if found else words)
    except ValueError:
        return hardware  # what else tables write, such as the kind of links inside a node
    found = found or KnownNetwork(adapters=words)
    reached = f", of which {100 * found.efficiency:.1f} % are reached ({found.why})" if found.efficiency else ""
    hardware = with_network(hardware, nics, rate)
    assumed.note(f"network `{words}`: {network_text(hardware.network)} a node{reached}")
    network = msgspec.structs.replace(
        hardware.network,
        kind=words,
        efficiency=found.efficiency or hardware.network.efficiency,
        latency_s=found.latency_s or hardware.network.latency_s,
        ring_bytes_per_s=found.ring,
    )
    link = hardware.node_link
    if found.switched:
        link = msgspec.structs.replace(link, pair_efficiency=None, quad_efficiency=None)
    peaks = {precision: FlopsPerSecond(peak * found.peak) for precision, peak in hardware.peak_flops_per_s.items()}
    return msgspec.structs.replace(hardware, network=network, node_link=link, peak_flops_per_s=peaks)
