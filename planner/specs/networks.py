"""The network of a node in words: how many adapters it has, and the one-way rate of each, ``8 x 200 Gbit/s``."""

import re

import msgspec

from planner.specs.hardware import HardwareSpec, NetworkSpec
from planner.specs.units import BytesPerSecond, format_rate, parse_quantity

MOST_NICS = 64
EXAMPLE = "8 x 200 Gbit/s"
BITS = 8

_WORDS = re.compile(r"\s*([0-9]{1,4})\s*[x*]\s*(\S.*)")
_KINDS = r"(?i:(?:InfiniBand|IB|FDR|EDR|HDR|NDR|RoCE|Ethernet|Omni-Path|EFA|Mellanox|ConnectX-?[0-9])[\s,]+)*"
_WITHIN = re.compile(rf"\b([0-9]{{1,2}})\s*[x*]\s*{_KINDS}([0-9.]+)\s*G(?:bit/s|b/s|bps|bit|b|bE)(?![A-Za-z/])")


def parse_network(text: str) -> tuple[int, BytesPerSecond]:
    """The adapters of a node and the one-way rate of each, in bytes per second.

    A rate alone is none: it could be that of a node, of an adapter or of a device.

    Raises:
        ValueError: the text is no such network; the message says how to write one.
    """
    match = _WORDS.fullmatch(text)
    count = int(match[1]) if match else 0
    if match is None or not 1 <= count <= MOST_NICS:
        raise ValueError(
            f"`{text}` does not say how many adapters a node has, 1 to {MOST_NICS}, and the rate of each; "
            f"write it like `{EXAMPLE}`"
        )
    try:
        return count, parse_quantity(match[2], BytesPerSecond)
    except ValueError as error:
        raise ValueError(f"{error}; a node's network is written like `{EXAMPLE}`") from error


def network_in(text: str) -> tuple[int, BytesPerSecond]:
    """:func:`parse_network` of what tables write: the kind of network may stand before or after the rate.

    ``4 * 100Gb RoCE`` and ``NVLink; 1 x InfiniBand EDR 100 Gb/s`` tell both; a rate alone tells nothing here either.

    Raises:
        ValueError: as :func:`parse_network` does.
    """
    match = _WITHIN.search(text)
    return parse_network(f"{match[1]} x {match[2]} Gbit/s" if match else text)


def network_text(network: NetworkSpec) -> str:
    """The adapters of a node as :func:`parse_network` reads them."""
    rate = format_rate(network.bandwidth_bytes_per_s * BITS, "bit/s")
    return f"{network.nics_per_node} x {rate}"


def with_network(hardware: HardwareSpec, nics: int, bandwidth: BytesPerSecond) -> HardwareSpec:
    """The card in nodes with other adapters, which reach as much of their rate and take as long for a message.

    What one collective was measured to reach of the spec's adapters says nothing of others.
    """
    network = msgspec.structs.replace(
        hardware.network, nics_per_node=nics, bandwidth_bytes_per_s=bandwidth, ring_bytes_per_s=None
    )
    return msgspec.structs.replace(hardware, network=network)
