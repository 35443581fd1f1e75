"""What NCCL says that it chose, in the log that it writes where NCCL_DEBUG is INFO."""

import re
from collections.abc import Iterable
from pathlib import Path

_USING = re.compile(r"NCCL INFO NET/(?P<kind>[\w-]+)\s*: Using (?P<devices>\S.*)")
_NETWORK = re.compile(r"NCCL INFO (?:Initialized NET plugin|Using network) (?P<kind>[\w-]+)")
_CHANNEL = re.compile(r"NCCL INFO Channel \d+(?:/\d+)? : .* via (?P<way>NET/[\w-]+|P2P|SHM)(?P<more>\S*)")
_DEVICE = re.compile(r"\[\d+\](?P<name>[^\s;,]+)")
_MOST_BYTES = 4 * 1024**2


def choice_in(lines: Iterable[str]) -> str:
    """The network and its devices, and the ways of the channels, in words such as ``IB (mlx5_0, mlx5_1), GDRDMA``.

    Empty where NCCL did not say. The lines are those of NCCL 2.18 to 2.27 (src/transport/net_ib.cc, net_socket.cc,
    init.cc and net.cc of github.com/NVIDIA/nccl).
    """
    kind, devices, ways = "", [], set()
    for line in lines:
        if match := _USING.search(line):
            devices = [one["name"].partition(":")[0] for one in _DEVICE.finditer(match["devices"])]
            kind = kind or match["kind"]
        elif match := _NETWORK.search(line):
            kind = match["kind"]
        elif match := _CHANNEL.search(line):
            ways.add("GDRDMA" if "GDRDMA" in match["more"] else match["way"].partition("/")[0])
    named = f"{kind} ({', '.join(devices)})" if devices else kind
    return ", ".join(filter(None, (named, *sorted(ways - {"NET"}))))


def choice_of(path: Path) -> str:
    """What the log of a rank says; empty where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return choice_in(file.read(_MOST_BYTES).splitlines())
    except OSError:
        return ""
