"""A folder on an NVMe drive for the moments of the optimizer: is it there, local and large enough.

Nothing here imports the runtime: packages are looked up, shared libraries opened, mounts read.
"""

import ctypes
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.cost_model.parameters import updated_parameters
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.handover.work import MOMENT_BYTES
from planner.launch import nvme_build
from planner.launch.drives import MEMORY_FILE_SYSTEMS, file_system, is_network
from planner.layouts.stages import stages_of_layout
from planner.plans.plan import Plan
from planner.specs.units import format_bytes

RULE = "RUN005"

_LIBAIO = ("libaio.so.1", "libaio.so.1t64")
_APT = "`apt update && apt install libaio-dev`"


def check_nvme(plan: Plan, folder: Path | None, node_rank: int = 0) -> None:
    """Refuse a folder that cannot hold the moments of node ``node_rank``, and a machine that cannot use it.

    Raises:
        PlanError: with exit code 1 and all findings; each names what to install or to type instead.
    """
    found = [*_missing_libraries(), *_unusable_folder(plan, folder, node_rank)]
    if found:
        raise PlanError(*found, exit_code=ExitCode.NEGATIVE)


def moment_bytes(plan: Plan, node_rank: int = 0) -> int:
    """Bytes of the moments that the ranks of one node keep on its drive."""
    problem, layout = plan.problem, plan.layout
    by_stage = updated_parameters(problem, stages_of_layout(layout))
    first = node_rank * problem.devices_per_node
    ranks = range(first, min(first + problem.devices_per_node, layout.num_devices))
    stages = [rank // layout.tensor_parallel % layout.pipeline_parallel for rank in ranks]
    parameters = sum(float(by_stage[stage]) for stage in stages)
    return round(MOMENT_BYTES * layout.offload.optimizer * parameters)


def _finding(message: str, hint: str, **more: Any) -> Diagnostic:
    return Diagnostic(rule=RULE, message=message, hint=hint, **more)


def _missing_libraries() -> Iterator[Diagnostic]:
    if not any(_opens(name) for name in _LIBAIO):
        yield _finding("offload to NVMe needs the library libaio, which is not here", _APT)
    if importlib.util.find_spec("tensornvme") is None:
        hint = f"`apt install {nvme_build.PACKAGES}`, then `{nvme_build.COMMAND}`"
        yield _finding("offload to NVMe needs the package tensornvme, which is not installed", hint)


def _opens(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _unusable_folder(plan: Plan, folder: Path | None, node_rank: int) -> Iterator[Diagnostic]:
    hint = "name a folder on a local drive with `--nvme-path FOLDER`"
    if folder is None:
        yield _finding("the plan offloads to NVMe, and no folder on such a drive is named", hint)
        return
    place: dict[str, Any] = {"location": f"--nvme-path {folder}"}
    if not folder.is_dir():
        yield _finding("there is no such folder", hint, **place)
        return
    kind = file_system(folder)
    if is_network(kind):
        yield _finding(f"this folder is on a network file system ({kind}), not on a local drive", hint, **place)
    elif kind in MEMORY_FILE_SYSTEMS:
        yield _finding(f"this folder is in memory ({kind}), not on a drive", hint, **place)
    if not _is_writable(folder):
        yield _finding("this folder cannot be written to", hint, **place)
    needed, free = moment_bytes(plan, node_rank), shutil.disk_usage(folder).free
    if needed > free:
        message = f"the optimizer's moments take {format_bytes(needed)} on this drive, and {format_bytes(free)} is free"
        share = f"{MOMENT_BYTES} bytes for each parameter that the ranks of this node update"
        yield _finding(
            message, "make room, or name a folder on a larger drive with `--nvme-path FOLDER`", detail=share, **place
        )


def _is_writable(folder: Path) -> bool:
    # What the permissions say is not enough: root may write into a folder that is mounted read-only.
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
