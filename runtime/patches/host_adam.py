"""Colossal-AI's AdamW for parameters in host memory: also where there is no CUDA, and the same after a resume."""

import fcntl
from collections.abc import Callable
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

    name = "gptplan_cpu_adam"
    sources = Path(colossalai.__file__).parent / "kernel" / "extensions" / "csrc"
    folder = Path(cpp_extension._get_build_directory(name, verbose=False))
    with (folder / "building").open("w") as file:
        # A process that is killed lets go of this lock, but not of PyTorch's, for which others would wait for ever.
        fcntl.flock(file, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        return cpp_extension.load(
            name,
            [str(sources / "kernel" / "arm" / "cpu_adam_arm.cpp")],
            extra_include_paths=[str(sources)],
            extra_cflags=["-O3", "-std=c++17", "-fopenmp"],
        )


class _Kernel:
    """One that is built at the first update that needs it, and whose updates depend on their own step alone.

    Bf16 gradients never need it; the first time on a machine it takes half a minute. Where its steps follow each other,
    the kernel multiplies the powers of the betas; where they do not, it takes them anew (``IncrementStep`` in
    cpu_adam.h). They are rounded otherwise, so that the first update after a resume would be another one.
    """

    def __init__(self, build: Callable[[], Any], settings: tuple[float | bool, ...]) -> None:
        self._build, self._settings = build, settings
        self._kernel: Any = None
        self._nothing = [torch.empty(0)] * 4

    def step(self, step: int, *arguments: Any) -> None:
        """Update one parameter."""
        if self._kernel is None:
            self._kernel = self._build().CPUAdamOptimizer(*self._settings)
        *numbers, _, _, _, _, scale = arguments
        self._kernel.step(0, *numbers, *self._nothing, scale)
        self._kernel.step(step, *arguments)


class _Loader:
    """Stands for the library's loader of this kernel."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build

    def __call__(self) -> "_Loader":
        """What looks like a loader that was made."""
        return self

    def load(self) -> "_Loader":
        """What looks like the compiled module."""
        return self

    def CPUAdamOptimizer(self, *settings: float | bool) -> _Kernel:  # noqa: N802
        """What looks like its class."""
        return _Kernel(self._build, settings)


def provide_cpu_adam() -> None:
    """Let CPUAdam and HybridAdam find a kernel: the library's own on a machine with CUDA."""
    from colossalai.nn.optimizer import cpu_adam

    if not isinstance(cpu_adam.CPUAdamLoader, _Loader):
        own = cpu_adam.CPUAdamLoader
        cpu_adam.CPUAdamLoader = _Loader((lambda: own().load()) if torch.cuda.is_available() else _built)
