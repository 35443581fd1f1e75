"""One rank of a calibration; started once per device as ``-m runtime.calibrate.worker RESULT WORK``.

The work is :class:`planner.handover.work.CalibrationWork` as JSON.
"""

import datetime
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch
import torch.distributed as dist

from planner.diagnostics import Diagnostic, ExitCode, render
from planner.handover.measurements import AttentionRates, Collective, DeviceMemory, Measurements, Product
from planner.handover.options import decode
from planner.handover.work import CalibrationWork
from planner.specs import Precision
from runtime.calibrate.adam import AdamRate, measure_adam
from runtime.calibrate.attention import measure_attention
from runtime.calibrate.collectives import measure_collectives
from runtime.calibrate.host import gpt2_block_s
from runtime.calibrate.memory import (
    host_copy_bytes_per_s,
    host_memory_bytes,
    kernel_launch_s,
    memory_bytes_per_s,
    process_bytes,
    transfer_bytes_per_s,
)
from runtime.calibrate.products import Shape, measure_products, shapes_for
from runtime.calibrate.storage import DiskRates, measure_disk
from runtime.exchange import of_everyone
from runtime.patches.quiet import quieten_libraries
from runtime.train.display import PhaseDisplay
from runtime.train.group import join_group
from runtime.train.worker import fail

Found = TypeVar("Found")

AMPERE = 8
"""Major compute capability of the first GPUs with bf16."""
OTHER_SHAPES = 4
"""Shapes, the largest but for the very largest, that other precisions than the main one are measured with."""
ATTENTION = "attention"
SHARES = {
    "matrix products": 0.28,
    "other precisions": 0.10,
    ATTENTION: 0.03,
    "memory bandwidth": 0.05,
    "kernel launches": 0.02,
    "a block on the host": 0.02,
    "collectives": 0.22,
    "host copies": 0.05,
    "host to device": 0.07,
    "Adam on the host": 0.08,
    "disk": 0.08,
}
"""Parts of the time limit that the measurements get."""
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=5)
"""Longer than any rank is alone with a measurement; then the others give up waiting for it."""


class Ranks:
    """This rank, its device and the others."""

    def __init__(self, kind: str) -> None:
        """Join the others. ``kind`` is cuda or cpu."""
        self.rank, self.world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device("cpu")
        if kind == "cuda":
            torch.cuda.set_device(self.device)
        self.before: int | None = process_bytes(self.device) if kind == "cuda" else None
        join_group("nccl" if kind == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)

    def gathered(self, value: Found | None, kind: Any = float) -> list[Found]:
        """What every rank found, in their order, unless it found nothing; ``kind`` is its type."""
        return [one for one in of_everyone(value, kind | None) if one is not None]

    def median(self, value: float) -> float:
        """The median over all ranks."""
        return statistics.median(self.gathered(value))

    def device_memory(self) -> DeviceMemory | None:
        """Memory of the device before and after the first communicator."""
        if self.before is None:
            return None
        dist.all_reduce(torch.ones(1, device=self.device))
        after = process_bytes(self.device)
        total = torch.cuda.mem_get_info(self.device)[1]
        return DeviceMemory(
            total_bytes=int(min(self.gathered(float(total)))),
            context_bytes=int(self.median(self.before)),
            communicator_bytes=int(self.median(max(0, after - self.before))) if self.world > 1 else None,
        )


class Calibration:
    """All measurements of one machine, in turn, with progress on rank 0."""

    def __init__(self, ranks: Ranks, work: CalibrationWork) -> None:
        """Measure what ``work`` says, in about its time limit."""
        self._ranks, self._work = ranks, work
        self._has_attention = ranks.device.type == "cuda" and _is_ampere_or_newer(ranks.device)
        self._display = PhaseDisplay(len(SHARES) - (not self._has_attention), shown=ranks.rank == 0)

    def run(self) -> Measurements:
        """Every rank has to call it; all get the same answer."""
        ranks, device = self._ranks, self._ranks.device
        started, memory = time.perf_counter(), self._ranks.device_memory()
        with self._display:
            products = self._products()
            attention = self._attention()
            memory_rate = ranks.median(memory_bytes_per_s(device, self._phase("memory bandwidth")))
            launch = ranks.median(kernel_launch_s(device, self._phase("kernel launches")))
            block = ranks.median(gpt2_block_s(device, self._phase("a block on the host")))
            collectives = self._collectives()
            copies = sum(ranks.gathered(host_copy_bytes_per_s(self._phase("host copies"))))
            half = self._phase("host to device") / 2
            pinned = ranks.median(transfer_bytes_per_s(device, pinned=True, budget_s=half))
            pageable = ranks.median(transfer_bytes_per_s(device, pinned=False, budget_s=half))
            adam = ranks.gathered(measure_adam(self._phase("Adam on the host")), AdamRate)
            disk = self._disk()
        return Measurements(
            device="cuda" if device.type == "cuda" else "cpu",
            device_name=_device_name(device),
            torch_version=str(torch.__version__),
            num_devices=ranks.world,
            threads_per_process=torch.get_num_threads(),
            products=tuple(products),
            attention=attention,
            memory_bytes_per_s=memory_rate,
            kernel_launch_s=launch,
            gpt2_block_s=block,
            collectives=tuple(collectives),
            device_memory=memory,
            host_memory_bytes=host_memory_bytes(),
            host_copy_bytes_per_s=copies,
            adam_parameters_per_s=sum(one.parameters_per_s for one in adam),
            adam=adam[0].name,
            pinned_bytes_per_s=pinned,
            pageable_bytes_per_s=pageable,
            disk_free_bytes=self._work.free_bytes,
            disk_read_bytes_per_s=disk.read_bytes_per_s,
            disk_write_bytes_per_s=disk.write_bytes_per_s,
            seconds=time.perf_counter() - started,
        )

    def _phase(self, name: str) -> float:
        """Announce a measurement, start it on all ranks at once; its budget in seconds."""
        self._display.phase(name)
        dist.barrier()
        return SHARES[name] * self._work.time_limit_s

    def _products(self) -> list[Product]:
        device = self._ranks.device
        order: Sequence[Precision] = ("fp32", "bf16", "fp16") if device.type == "cpu" else ("bf16", "fp16", "fp32")
        if device.type == "cuda" and not _is_ampere_or_newer(device):
            order = ("fp16", "fp32")
        main, *others = order
        shapes = shapes_for(device)
        found = self._agreed(measure_products(device, main, shapes, self._phase("matrix products")))
        budget_s = self._phase("other precisions") / len(others)
        reached = found[-OTHER_SHAPES:] or found
        few = [Shape(one.m, one.k, one.n) for one in reached]
        for precision in others:
            found += self._agreed(measure_products(device, precision, few, budget_s))
        return found

    def _attention(self) -> AttentionRates | None:
        """The median over the ranks of forward and of backward."""
        if not self._has_attention:
            return None
        found = self._ranks.gathered(self._own_attention(), AttentionRates)
        if not found:
            return None
        return AttentionRates(
            forward_flops_per_s=statistics.median(one.forward_flops_per_s for one in found),
            backward_flops_per_s=statistics.median(one.backward_flops_per_s for one in found),
        )

    def _own_attention(self) -> AttentionRates | None:
        return measure_attention(self._ranks.device, self._phase(ATTENTION))

    def _agreed(self, products: list[Product]) -> list[Product]:
        """The median over the ranks that measured a shape."""
        by_shape: dict[tuple[int, int, int], list[Product]] = {}
        for one in (product for rank in self._ranks.gathered(products, list[Product]) for product in rank):
            by_shape.setdefault((one.m, one.k, one.n), []).append(one)
        return [
            msgspec.structs.replace(same[0], seconds=statistics.median(one.seconds for one in same))
            for same in by_shape.values()
        ]

    def _collectives(self) -> list[Collective]:
        budget_s = self._phase("collectives")
        return measure_collectives(self._ranks.device, budget_s) if self._ranks.world > 1 else []

    def _disk(self) -> DiskRates:
        """One process writes and reads: the drive is that of the node."""
        work, budget_s = self._work, self._phase("disk")
        rates = measure_disk(work.folder, work.free_bytes, budget_s) if self._ranks.rank == 0 else DiskRates(0, 0)
        return self._ranks.gathered(rates, DiskRates)[0]


def _is_ampere_or_newer(device: torch.device) -> bool:
    major: int = torch.cuda.get_device_capability(device)[0]
    return major >= AMPERE


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def main(arguments: Sequence[str]) -> int:
    """Measure, and write the result as JSON; the exit code says how it ended."""
    result, work = Path(arguments[0]), decode(arguments[1], CalibrationWork)
    quieten_libraries()
    try:
        ranks = Ranks(work.device)
        found = Calibration(ranks, work).run()
        if ranks.rank == 0:
            result.write_bytes(msgspec.json.encode(found))
        dist.barrier()
        dist.destroy_process_group()
    except OSError as error:
        return fail(_refusal(f"the drive of {work.folder} cannot be measured: {error.strerror}"), ExitCode.NEGATIVE)
    except torch.OutOfMemoryError:
        message = "a device has too little free memory to be measured"
        hint = "end what else runs on it; `nvidia-smi` shows it"
        return fail(_refusal(message, hint), ExitCode.NEGATIVE)
    except Exception as error:
        reason = str(error).strip().splitlines()[:1]
        return fail(_refusal(f"{type(error).__name__} while measuring: {''.join(reason)}"), ExitCode.BUG)
    return ExitCode.OK


def _refusal(message: str, hint: str = "") -> str:
    return render(Diagnostic(rule="CAL001", message=message, hint=hint))


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Without the interpreter's shutdown, in which a process group waits for peers that are gone.
    os._exit(status)
