"""Measuring this machine: its devices and drive, the processes that do it, and the spec that has the rest."""

import datetime
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from planner.calibration.hardware import Origin
from planner.diagnostics import Diagnostic, ExitCode, PlanError, render, usage_error
from planner.handover.measurements import Measurements
from planner.handover.work import CalibrationWork
from planner.launch.drives import MEMORY_FILE_SYSTEMS, file_system
from planner.launch.machine import builtin_for, is_named, present_gpus
from planner.launch.processes import calibrating, execute, say_interrupted
from planner.outputs import say
from planner.specs import HardwareSpec
from planner.specs.files import load_spec

CPU_BASE = "local-cpu"
CPU_PROCESSES = 2
STDERR = 2
"""File descriptor: libraries of the workers may print, and stdout is for the answer."""
TIME_LIMITS_S = {"cuda": 110.0, "cpu": 40.0}
"""How long the measurements take, start and end not counted, unless the user says otherwise."""


def measure(
    *, name: str, base: str | None, devices: int | None, disk: Path, time_limit_s: float | None
) -> tuple[Measurements, Origin] | int:
    """Measure this machine with one process a device; an exit code where the processes failed.

    Args:
        name: what the spec will be called.
        base: the spec that has what one node cannot tell; ``None`` is that of the first GPU, or of a CPU core.
        devices: how many to measure; ``None`` is all GPUs, or two processes on a CPU.
        disk: a folder on the drive to measure.
        time_limit_s: how long to measure for.

    Raises:
        PlanError: PyTorch is missing, or one of these is nothing that this machine has.
    """
    if importlib.util.find_spec("torch") is None:
        message = "calibrating needs PyTorch, which is not installed; planning works without it"
        hint = "`pip install torch`, or install the `runtime` extra as the README says"
        raise PlanError(Diagnostic(rule="RUN001", message=message, hint=hint), exit_code=ExitCode.NEGATIVE)
    gpus = present_gpus()
    device: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    origin = _origin(name, base, gpus)
    num_devices, folder = _num_devices(devices, gpus), _drive_folder(disk)
    work = CalibrationWork(
        device=device,
        time_limit_s=TIME_LIMITS_S[device] if time_limit_s is None else time_limit_s,
        folder=folder,
        free_bytes=shutil.disk_usage(folder).free,
    )
    if busy := busy_words(os.getloadavg()[0], os.cpu_count() or 1):
        say(busy)
    with tempfile.TemporaryDirectory(prefix="gptplan-") as temporary:
        result = Path(temporary) / "measurements.json"
        outcome = execute(calibrating(result, num_devices, work), stdout=STDERR)
        say_interrupted(outcome, "no spec was written")
        if outcome.code or not result.is_file():
            return outcome.code or ExitCode.BUG
        return msgspec.json.decode(result.read_bytes(), type=Measurements), origin


def busy_words(load: float, cores: int) -> str:
    """What to know of a machine on which ``load`` processes ran on average in the last minute; ``""`` where few did."""
    if load <= cores / 2:
        return ""
    return (
        f"note: other processes ran here in the last minute, {load:.1f} at a time on {cores} cores: what is measured "
        "beside them is too slow; calibrate again when the machine is idle"
    )


def _origin(name: str, base: str | None, gpus: list[str]) -> Origin:
    known = base or (builtin_for(gpus[0]) if gpus else CPU_BASE)
    if known is None:
        raise usage_error(
            f"no built-in spec is that of {gpus[0]}, and one machine cannot tell the network between several",
            location="--base",
            hint="name the spec to take the rest from, such as `--base a100-80g`",
        )
    spec = load_spec(known, HardwareSpec)
    return Origin(
        name=name,
        base=spec,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        same_device=is_named(gpus[0], spec) if gpus else spec.device == "cpu",
        devices_per_node=len(gpus) or spec.devices_per_node,
    )


def _num_devices(devices: int | None, gpus: list[str]) -> int:
    most = len(gpus) or os.cpu_count() or 1
    if devices is None:
        return len(gpus) or min(CPU_PROCESSES, most)
    if not 1 <= devices <= most:
        what = f"{most} GPUs" if gpus else f"{most} cores and no GPU"
        raise usage_error(
            f"--devices has to be from 1 to {most}, and it is {devices}: this machine has {what}",
            location="--devices",
            hint=f"use `--devices {most}`, or leave it out",
        )
    return devices


def _drive_folder(folder: Path) -> Path:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise usage_error(
            "there is no such folder, or it cannot be written to",
            location=f"--disk {folder}",
            hint="name a folder on the drive that offloaded states would be on",
        )
    if file_system(folder) in MEMORY_FILE_SYSTEMS:
        message = f"{folder} is in memory, so the drive's rates will be those of memory"
        note = Diagnostic(rule="CAL001", severity="warning", message=message, hint="name a folder with `--disk`")
        say(render(note))
    return folder.resolve()
