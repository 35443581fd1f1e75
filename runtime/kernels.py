"""Colossal-AI's AdamW for parameters in host memory, where there is no CUDA to build it with."""

from pathlib import Path
from typing import Any

import torch


class _PlainCpuAdamLoader:
    """Builds the kernel from the source that needs a C++ compiler and nothing else.

    The library takes it on ARM only, and on x86 one that links to CUDA. Both compute the same.
    """

    def load(self) -> Any:
        """The compiled module; the first time on a machine this takes half a minute."""
        import colossalai
        from torch.utils import cpp_extension

        sources = Path(colossalai.__file__).parent / "kernel" / "extensions" / "csrc"
        return cpp_extension.load(
            "gptplan_cpu_adam", [str(sources / "kernel" / "arm" / "cpu_adam_arm.cpp")],
            extra_include_paths=[str(sources)], extra_cflags=["-O3", "-std=c++17", "-fopenmp"],
        )  # fmt: skip


def provide_cpu_adam() -> None:
    """Let CPUAdam and HybridAdam find a kernel; on a machine with CUDA the library builds its own."""
    if torch.cuda.is_available():
        return
    from colossalai.nn.optimizer import cpu_adam

    cpu_adam.CPUAdamLoader = _PlainCpuAdamLoader
