"""Whether this machine is the one that a plan was made for: its packages, their versions, compilers and devices.

Nothing here imports the runtime or what it needs: versions are read from package metadata, compilers are looked for
and not called, GPUs are asked for with `nvidia-smi`.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.handover.work import STACK
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from planner.plans.question import Question, build_problem
from planner.specs import HardwareSpec
from planner.specs.files import builtin_names, load_spec
from planner.specs.units import MIB

RUNTIME_PACKAGES = ("torch", "colossalai", "transformers", "peft", "galore_torch", "bitsandbytes", "rich")
TRANSFORMERS_VERSION = "4.51.3"
"""Colossal-AI's GPT-2 forward is written for this release's blocks."""
OLDEST_TORCH = (2, 2)
OTHER_STACK = "RUN004"
"""Code of a plan that is for another stack than the runtime's."""
DEFAULT_CUDA = Path("/usr/local/cuda")


def check_machine(plan: Plan, location: str, node_rank: int = 0) -> None:
    """Refuse a plan that was made for other software or hardware than node ``node_rank`` has.

    ``location`` is the plan file as the user named it.

    Raises:
        PlanError: with exit code 1 and all findings; each names what to type instead.
    """
    if plan.problem.stack.name != STACK:
        found = [_other_stack(plan)]
    else:
        found = missing_packages() or [*_other_versions(plan), *_other_hardware(plan, node_rank)]
    if found:
        placed = (msgspec.structs.replace(one, location=location) for one in found)
        raise PlanError(*placed, exit_code=ExitCode.NEGATIVE)


def _solved_here(plan: Plan, otherwise: str, *, gpu: str | None, gpus: int) -> str:
    """The command that plans the same model for other hardware, if that has an answer, else another way out."""
    from planner.solver.feasibility import feasible  # noqa: PLC0415 - OR-Tools takes a second, and most plans match

    model = plan.problem.model
    try:
        problem = build_problem(Question(model=model.name, gpu=gpu or "", gpus=gpus))
        if problem.model == model and feasible(problem):
            return f"`gptplan solve --gpu {gpu} --gpus {gpus} --model {model.name}`"
    except PlanError:
        pass  # a model or a card that is in a file of the user
    return otherwise


def _other_stack(plan: Plan) -> Diagnostic:
    hint = f"solve with `--stack {STACK}` to get a plan that runs"
    return Diagnostic(
        rule=OTHER_STACK, message=f"only {STACK} plans can run, this one is for {plan.problem.stack.name}", hint=hint
    )


def missing_packages(*names: str) -> list[Diagnostic]:
    """Which of the packages that running needs are not installed; of ``names`` where there are any."""
    missing = [name for name in names or RUNTIME_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return []
    message = f"running needs packages that are not installed: {', '.join(missing)}"
    hint = "install the `runtime` extra into this environment; the README says how"
    return [Diagnostic(rule="RUN001", message=message, hint=hint)]


def _other_versions(plan: Plan) -> Iterator[Diagnostic]:
    wanted = plan.problem.stack.version
    colossalai = importlib.metadata.version("colossalai")
    if colossalai != wanted:
        message = f"the plan was made for Colossal-AI {wanted}, {colossalai} is installed"
        hint = f"install colossalai=={wanted}, or solve with a `--stack` of version {colossalai}"
        yield Diagnostic(rule="RUN002", message=message, hint=hint)
    transformers = importlib.metadata.version("transformers")
    if transformers != TRANSFORMERS_VERSION:
        message = f"Colossal-AI needs transformers {TRANSFORMERS_VERSION}, {transformers} is installed"
        yield Diagnostic(rule="RUN002", message=message, hint=f"`pip install transformers=={TRANSFORMERS_VERSION}`")
    torch = importlib.metadata.version("torch")
    oldest = ".".join(map(str, OLDEST_TORCH))
    if tuple(map(int, re.findall(r"\d+", torch)[:2])) < OLDEST_TORCH:
        message = f"running needs torch {oldest} or newer, {torch} is installed"
        yield Diagnostic(rule="RUN002", message=message, hint=f"`pip install 'torch>={oldest}'`")


def _other_hardware(plan: Plan, node_rank: int) -> Iterator[Diagnostic]:
    hardware = plan.problem.hardware
    if hardware.device == "cpu":
        return
    names = present_gpus()
    wanted = devices_of_node(plan, node_rank)
    elsewhere = f"run it where there are {wanted} {hardware.title}"
    if not names:
        message = f"the plan needs {wanted} {hardware.title} on this machine, no GPU was found"
        yield Diagnostic(rule="RUN003", message=message, hint=_solved_here(plan, elsewhere, gpu="local-cpu", gpus=2))
        return
    here = builtin_for(names[0])
    if len(names) < wanted:
        message = f"the plan needs {wanted} GPUs on this machine, {len(names)} found"
        hint = _solved_here(plan, elsewhere, gpu=here, gpus=len(names))
        yield Diagnostic(rule="RUN003", message=message, detail=f"found: {', '.join(names)}", hint=hint)
    others = sorted({name for name in names[:wanted] if not is_named(name, hardware)})
    if others:
        message = f"the plan was made for {hardware.title}, this machine has {', '.join(others)}"
        hint = _solved_here(plan, elsewhere, gpu=here, gpus=plan.problem.num_devices)
        yield Diagnostic(rule="RUN003", message=message, hint=hint)


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, as the driver reports it now."""

    name: str
    total_bytes: int
    used_bytes: int
    """By all processes, and by the driver itself."""
    driver: str
    """Version of the driver."""


def present_gpus() -> list[str]:
    """Names of the GPUs of this machine that a process may use, as the driver reports them."""
    return [line.rpartition(",")[0].strip() for line in _asked_driver("name,memory.total")]


def gpu_states() -> list[GpuState]:
    """Those GPUs with their memory and the version of the driver; what the driver does not tell is 0."""
    found = []
    for line in _asked_driver("name,memory.total,memory.used,driver_version"):
        name, total, used, driver = (part.strip() for part in line.rsplit(",", 3))
        sizes = [int(part) * MIB if part.isdigit() else 0 for part in (total, used)]
        found.append(GpuState(name=name, total_bytes=sizes[0], used_bytes=sizes[1], driver=driver))
    return found


def _asked_driver(fields: str) -> list[str]:
    """A line of values for each GPU that a process may use."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits")
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line for line in answer.stdout.splitlines() if line.strip()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return lines
    chosen = [part.strip() for part in visible.split(",") if part.strip()]
    if all(part.isdigit() for part in chosen):
        return [lines[int(part)] for part in chosen if int(part) < len(lines)]
    return lines[: len(chosen)]


def is_named(name: str, hardware: HardwareSpec) -> bool:
    """Whether the driver reports such a GPU under that name: whole words of it, as L4 is no L40S and B200 no GB200."""
    parts = (rf"(?<![0-9a-z]){re.escape(part.lower())}(?![0-9a-z])" for part in hardware.device_names)
    return any(re.search(part, name.lower()) for part in parts)


def builtin_for(name: str) -> str | None:
    """The built-in spec of the GPU that the driver reports under that name."""
    specs = (load_spec(known, HardwareSpec) for known in builtin_names(HardwareSpec))
    return next((spec.name for spec in specs if spec.device == "cuda" and is_named(name, spec)), None)


def devices_of_node(plan: Plan, node_rank: int) -> int:
    """How many devices of the plan node ``node_rank`` has.

    Raises:
        PlanError: the plan has no such node.
    """
    problem = plan.problem
    if not 0 <= node_rank < problem.num_nodes:
        raise usage_error(
            f"there is no node {node_rank}, the plan uses {problem.num_nodes}",
            location="--node-rank",
            hint=f"use 0 to {problem.num_nodes - 1}, another on each node" if problem.num_nodes > 1 else "leave it out",
        )
    return min(problem.devices_per_node, problem.num_devices - node_rank * problem.devices_per_node)


def check_toolchain(plan: Plan) -> None:
    """Refuse a plan whose optimizer has to be compiled, where that is not possible: Colossal-AI builds its own Adam.

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
        raise PlanError(Diagnostic(rule="RUN012", message=message, hint=_hint(missing)), exit_code=ExitCode.NEGATIVE)


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
