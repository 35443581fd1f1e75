"""Colossal-AI's AdamW for parameters in host memory, where there is no CUDA to build it with."""

from functools import cache
from pathlib import Path
from typing import Any

import torch


@cache
def _built() -> Any:
    """The kernel from the source that needs a C++ compiler and nothing else.

    The library takes it on ARM only, and on x86 one that links to CUDA. Both compute the same.
    """
    import colossalai
    from torch.utils import cpp_extension

    sources = Path(colossalai.__file__).parent / "kernel" / "extensions" / "csrc"
    return cpp_extension.load(
        "gptplan_cpu_adam",
        [str(sources / "kernel" / "arm" / "cpu_adam_arm.cpp")],
        extra_include_paths=[str(sources)],
        extra_cflags=["-O3", "-std=c++17", "-fopenmp"],
    )


class _LateKernel:
    """Builds the kernel at the first update that needs it: bf16 gradients never do.

    The first time on a machine that takes half a minute.
    """

    def __init__(self, *settings: float | bool) -> None:
        self._settings = settings
        self._kernel: Any = None

    def step(self, *arguments: Any) -> None:
        """Update one parameter."""
        if self._kernel is None:
            self._kernel = _built().CPUAdamOptimizer(*self._settings)
        self._kernel.step(*arguments)


class _HostLoader:
    """Stands for the library's loader of this kernel."""

    CPUAdamOptimizer = _LateKernel

    def load(self) -> "_HostLoader":
        """What looks like the compiled module."""
        return self


def provide_cpu_adam() -> None:
    """Let CPUAdam and HybridAdam find a kernel; on a machine with CUDA the library builds its own."""
    if torch.cuda.is_available():
        return
    from colossalai.nn.optimizer import cpu_adam

    cpu_adam.CPUAdamLoader = _HostLoader
