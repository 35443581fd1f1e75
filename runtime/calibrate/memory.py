"""Memory bandwidth of element-wise kernels, launch overhead, and the memory that a process takes."""

import contextlib
import os
import time
from pathlib import Path

import torch

from runtime.calibrate.timing import QueuedTimer, median_seconds, timed

KERNELS = 200
"""Small operations issued one after another; fewer than the queue of a device holds."""
DEVICE_ELEMENTS = 2**24
"""In bf16 as many bytes as a micro batch's hidden states; larger tensors, and fp32, reach more."""
COLD_COPIES = 4
"""Tensors that are taken in turn, more than caches hold."""
CPU_ELEMENTS = 2**24
COPY_BYTES = 128 * 1024**2


def memory_bytes_per_s(device: torch.device, budget_s: float) -> float:
    """Bytes that an out-of-place addition of activations reads and writes per second."""
    count, kind = (DEVICE_ELEMENTS, torch.bfloat16) if device.type == "cuda" else (CPU_ELEMENTS, torch.float32)
    copies = COLD_COPIES if device.type == "cuda" else 1
    left, right, result = ([torch.ones(count, device=device, dtype=kind) for _ in range(copies)] for _ in range(3))

    def add(index: int) -> object:
        return torch.add(left[index % copies], right[index % copies], out=result[index % copies])

    return 3.0 * count * kind.itemsize / QueuedTimer(device).seconds(add, budget_s)


def kernel_launch_s(device: torch.device, budget_s: float) -> float:
    """Host time to issue one small operation that autograd records, without waiting for the device."""
    start = torch.ones(16, device=device, requires_grad=True)

    def issue() -> float:
        began = time.perf_counter()
        value = start
        for _ in range(KERNELS):
            value = value + 1.0
        return time.perf_counter() - began

    samples: list[float] = []
    median_seconds(lambda: samples.append(issue()), device, budget_s)
    return sorted(samples)[len(samples) // 2] / KERNELS


def host_copy_bytes_per_s(budget_s: float) -> float:
    """Bytes that copies within host memory read and write per second."""
    source = torch.ones(COPY_BYTES // 4)
    target = torch.empty_like(source)
    return 2.0 * COPY_BYTES / median_seconds(lambda: target.copy_(source), torch.device("cpu"), budget_s)


def transfer_bytes_per_s(device: torch.device, *, pinned: bool, budget_s: float) -> float:
    """Bytes per second between host and device, one way, the slower direction; on a CPU a copy in memory."""
    host = torch.ones(COPY_BYTES // 4, pin_memory=pinned and device.type == "cuda")
    there = torch.empty(COPY_BYTES // 4, device=device)
    down = median_seconds(lambda: there.copy_(host, non_blocking=True), device, budget_s / 2)
    up = median_seconds(lambda: host.copy_(there, non_blocking=True), device, budget_s / 2)
    return COPY_BYTES / max(down, up)


def process_bytes(device: torch.device) -> int:
    """Device memory in use beside torch's tensors and cached blocks, by the driver's figure."""
    timed(lambda: torch.mm(torch.ones(256, 256, device=device), torch.ones(256, 256, device=device)), device)
    free, total = torch.cuda.mem_get_info(device)
    return max(0, total - free - torch.cuda.memory_reserved(device))


def host_memory_bytes() -> int:
    """Memory of the host, or what its control group leaves this process of it."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        with contextlib.suppress(OSError, ValueError):
            found = min(found, int(limit.read_text(encoding="ascii")))
    return found
