"""Rate of Adam on the host."""

import importlib.util
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch

from runtime.calibrate.timing import median_seconds

PARAMETERS = 2**25
"""512 MiB of weights, gradients and moments: more than caches hold."""


class AdamRate(NamedTuple):
    """Parameters that one process updates per second, and with what."""

    parameters_per_s: float
    name: str


def measure_adam(budget_s: float) -> AdamRate:
    """AdamW in fp32 on the host: Colossal-AI's own where its kernel is built, else torch's fused one."""
    weight = torch.nn.Parameter(torch.full((PARAMETERS,), 0.5))
    weight.grad = torch.full((PARAMETERS,), 1e-3)
    optimizer, name = _optimizer(weight)
    seconds = median_seconds(optimizer.step, torch.device("cpu"), budget_s)
    return AdamRate(PARAMETERS / seconds, name)


def _optimizer(weight: torch.nn.Parameter) -> tuple[torch.optim.Optimizer, str]:
    if _has_built_kernel():
        try:
            from colossalai.nn.optimizer import CPUAdam

            return CPUAdam([weight]), "Colossal-AI's CPUAdam"
        except (ImportError, RuntimeError, OSError):  # a kernel of another torch, or of another processor
            pass
    try:
        return torch.optim.AdamW([weight], fused=True), "torch's fused AdamW"
    except RuntimeError:  # torch before 2.4 has it for CUDA alone
        return torch.optim.AdamW([weight], foreach=True), "torch's AdamW"


def _has_built_kernel() -> bool:
    """Whether Colossal-AI can update on the host without compiling first.

    Its kernels are installed with it, or those of an earlier run, which it keeps for each version of PyTorch.
    """
    found = importlib.util.find_spec("colossalai")
    places = list(found.submodule_search_locations or ()) if found else []
    major, minor = torch.__version__.split(".")[:2]
    kept = Path.home() / ".cache" / "colossalai" / "torch_extensions"
    installed = (path for place in places for path in (Path(place) / "_C").glob("cpu_adam*"))
    return bool(places) and any(chain(installed, kept.glob(f"torch{major}.{minor}_*/cpu_adam*.so")))
