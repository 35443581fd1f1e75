"""The compilers that a run needs: Colossal-AI builds its own Adam when it is first used.

Nothing here imports the runtime: compilers are looked for, not called.
"""

import importlib.util
import os
import shutil
from pathlib import Path

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan

RULE = "RUN012"
DEFAULT_CUDA = Path("/usr/local/cuda")


def check_toolchain(plan: Plan) -> None:
    """Refuse a plan whose optimizer has to be compiled, where that is not possible.

    Raises:
        PlanError: with exit code 1; it names what to install.
    """
    layout = plan.layout
    if layout.zero_stage < SHARDS_WEIGHTS and layout.offload.tier != "nvme":
        return
    on_gpu = plan.problem.hardware.device == "cuda"
    missing = [] if on_gpu and _is_prebuilt() else _missing_tools(on_gpu=on_gpu)
    if missing:
        what = "ZeRO stage 3" if layout.zero_stage == SHARDS_WEIGHTS else "offload to NVMe"
        message = f"{what} uses an Adam that Colossal-AI compiles at first use, and there is no {', no '.join(missing)}"
        raise PlanError(Diagnostic(rule=RULE, message=message, hint=_hint(missing)), exit_code=ExitCode.NEGATIVE)


def _missing_tools(*, on_gpu: bool) -> list[str]:
    found = {
        "nvcc": not on_gpu or _has_nvcc(),
        "C++ compiler": any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++")),
        "ninja": shutil.which("ninja") is not None or importlib.util.find_spec("ninja") is not None,
    }
    return [name for name, is_there in found.items() if not is_there]


def _has_nvcc() -> bool:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    homes = [Path(home)] if home else [DEFAULT_CUDA]
    return shutil.which("nvcc") is not None or any((home / "bin" / "nvcc").is_file() for home in homes)


def _is_prebuilt() -> bool:
    """Whether Colossal-AI was installed with its kernels built."""
    found = importlib.util.find_spec("colossalai")
    places = found.submodule_search_locations if found is not None else None
    return any(list((Path(place) / "_C").glob("fused_optim*")) for place in places or ())


def _hint(missing: list[str]) -> str:
    if missing == ["ninja"]:
        return "`pip install ninja`"
    if "nvcc" in missing:
        return "install the CUDA toolkit of PyTorch's version and set CUDA_HOME, or use another ZeRO stage"
    return "`apt install g++`, and `pip install ninja`"
