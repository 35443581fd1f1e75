"""Makes Colossal-AI 0.5.0 run without a GPU.

On CUDA nothing is changed. On the CPU a few calls that Colossal-AI makes without asking for the
device are redirected; each function below is one of them and says who calls it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from colossalai.accelerator import get_accelerator, set_accelerator
from colossalai.accelerator.cpu_accelerator import CpuAccelerator
from colossalai.zero.low_level import LowLevelZeroOptimizer
from torch.distributed import distributed_c10d

from runtime.patches.pickles import send_plain_metadata

Device = Literal["cuda", "cpu"]


class _NoStream:
    """Stands for a CUDA stream where everything already happens in order."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""


class HostAccelerator(CpuAccelerator):  # type: ignore[misc]
    """Colossal-AI's CPU accelerator with the methods that its training code calls filled in."""

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        """Called for every layer that tensor parallelism replaces; the library's passes `None` on."""
        return torch.get_rng_state()

    def manual_seed(self, seed: int) -> None:
        """Called for the same layers."""
        torch.manual_seed(seed)

    def device_count(self) -> int:
        """Called by the loss scale of fp16, which does nothing with the answer."""
        return 1

    def synchronize(self, device: object = None) -> None:
        """Called after backward by ZeRO; the CPU is never behind."""

    def Stream(self, *args: object, **kwargs: object) -> _NoStream:  # noqa: N802 - the library's name
        """Called by the gradient buckets of ZeRO."""
        return _NoStream()

    def current_stream(self, device: object = None) -> _NoStream:
        """Called by the gradient buckets of ZeRO."""
        return _NoStream()

    @contextlib.contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        """Called by the gradient buckets of ZeRO."""
        yield


def _ignore_set_device() -> None:
    # The GPT-2 forward selects the device of its input before every block.
    torch.cuda.set_device = lambda device: None


def _declare_hccl() -> None:
    # The pipeline asks every group that is not NCCL whether it is Huawei's HCCL, which only
    # their build of PyTorch knows.
    if not hasattr(dist, "is_hccl_available"):
        dist.is_hccl_available = lambda: False  # type: ignore[attr-defined]
        distributed_c10d.Backend.HCCL = "hccl"  # type: ignore[attr-defined]


def _accept_cpu_in_zero() -> None:
    # The check refuses any accelerator but CUDA and NPU; its other half is worth keeping.
    def same_dtype(optimizer: Any) -> None:
        for group in optimizer.optim.param_groups:
            for parameter in group["params"]:
                if parameter.dtype != optimizer._dtype:
                    raise TypeError(f"a parameter has {parameter.dtype}, ZeRO expects {optimizer._dtype}")

    LowLevelZeroOptimizer._sanity_checks = same_dtype


def adapt(device: Device) -> None:
    """Prepare Colossal-AI for ``device`` in this process; calling it again changes nothing."""
    send_plain_metadata()
    if device == "cuda":
        set_accelerator("cuda")
        return
    if not isinstance(get_accelerator(), HostAccelerator):
        set_accelerator(HostAccelerator())
        _ignore_set_device()
        _declare_hccl()
        _accept_cpu_in_zero()
