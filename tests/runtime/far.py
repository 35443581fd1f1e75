"""A cable of some length between two network namespaces: ``-m tests.runtime.far NAME NAME SECONDS``.

Each gets a network device ``far0`` (a TUN device, whose packets this process reads and writes), and what goes in at one
comes out at the other after the time that light would take. Kernels without netem have no delay of their own.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TUN = Path("/dev/net/tun")
DEVICE = "far0"
MTU_BYTES = 9000
QUEUE_PACKETS = 2000
"""More than that in the cable are dropped, as by a switch."""
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
"""Of Linux's if_tun.h (Documentation/networking/tuntap.rst)."""


def opened(namespace: str) -> int:
    """A new device of the namespace, without an address."""
    with Path(f"/run/netns/{namespace}").open("rb") as place:
        if ctypes.CDLL(None, use_errno=True).setns(place.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    descriptor = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    return descriptor


def carry(ends: Sequence[int], delay_s: float) -> None:
    """Carry packets both ways until this process is ended."""
    on_the_way: list[collections.deque[tuple[float, bytes]]] = [collections.deque(), collections.deque()]
    while True:
        due = min((one[0][0] for one in on_the_way if one), default=None)
        left = None if due is None else max(0.0, due - time.monotonic())
        ready, _, _ = select.select(ends, [], [], left)
        for end, queue in zip(ends, on_the_way, strict=True):
            if end in ready and len(queue) < QUEUE_PACKETS:
                queue.append((time.monotonic() + delay_s, os.read(end, MTU_BYTES)))
            elif end in ready:
                os.read(end, MTU_BYTES)
        now = time.monotonic()
        for queue, other in zip(on_the_way, reversed(ends), strict=True):
            while queue and queue[0][0] <= now:
                _, packet = queue.popleft()
                with contextlib.suppress(OSError):  # a device that is not up yet
                    os.write(other, packet)


if __name__ == "__main__":
    descriptors = [opened(name) for name in sys.argv[1:3]]
    sys.stdout.write("on\n")
    sys.stdout.flush()
    carry(descriptors, float(sys.argv[3]))
