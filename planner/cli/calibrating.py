"""``calibrate``: measure this machine into a hardware spec, or refit a stack's constants to recorded runs."""

import datetime
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import msgspec

from planner.calibration.hardware import Origin, calibrated, spec_name
from planner.calibration.refit import refit
from planner.cli.output import print_json
from planner.diagnostics import Diagnostic, ExitCode, PlanError, render, usage_error
from planner.handover.measurements import Measurements
from planner.launch.drives import MEMORY_FILE_SYSTEMS, file_system
from planner.launch.processes import run_command
from planner.launch.workers import builtin_for, calibration_command, present_gpus
from planner.plans.plan import write_bytes
from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec, spec_digest, to_builtins
from planner.specs.toml import to_toml
from planner.views import calibration as calibration_view

CPU_BASE = "local-cpu"
CPU_PROCESSES = 2
STDERR = 2
"""File descriptor: libraries of the workers may print, and stdout is for the answer."""
TIME_LIMITS_S = {"cuda": 110.0, "cpu": 40.0}
"""How long the measurements take, start and end not counted, unless the user says otherwise."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """What `gptplan calibrate` may be told."""

    output: Path
    devices: int | None = None
    base: str | None = None
    disk: Path | None = None
    """The folder whose drive is measured; ``None`` is that of the output."""
    time_limit_s: float | None = None
    force: bool = False
    runs: Path | None = None
    """A table of recorded runs to refit a stack to, instead of measuring."""
    gpu: str | None = None
    stack: str | None = None
    as_json: bool = False


def calibrate(options: CalibrateOptions) -> int:
    """Measure or refit, write the spec, print what changed."""
    _check_output(options)
    if options.runs is not None:
        return _refit(options, options.runs)
    for option, value in (("--gpu", options.gpu), ("--stack", options.stack)):
        if value is not None:
            raise usage_error(f"{option} goes with --from alone", location=option, hint="leave it out")
    return _measure(options)


def _check_output(options: CalibrateOptions) -> None:
    output = options.output
    if output.suffix != ".toml":
        raise usage_error("a spec file ends in .toml", location=str(output), hint=f"use `-o {output.stem}.toml`")
    if output.is_dir():
        raise usage_error("this is a folder", location=str(output), hint="name a file with `-o FILE.toml`")
    if output.exists() and not options.force:
        hint = "name another file with `-o`, or replace it with `--force`"
        raise usage_error("this file is there already", location=str(output), hint=hint)
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK | os.X_OK):
        raise usage_error(
            "cannot write the spec: there is no such folder, or it cannot be written to",
            location=str(output),
            hint="name a file in another folder with `-o`",
        )


def _measure(options: CalibrateOptions) -> int:
    if importlib.util.find_spec("torch") is None:
        message = "calibrating needs PyTorch, which is not installed; planning works without it"
        hint = "`pip install torch`, or install the `runtime` extra as the README says"
        raise PlanError(Diagnostic(rule="RUN001", message=message, hint=hint), exit_code=ExitCode.NEGATIVE)
    gpus = present_gpus()
    device = "cuda" if gpus else "cpu"
    origin = _origin(options, gpus)
    devices = _devices(options, gpus)
    limit_s = TIME_LIMITS_S[device] if options.time_limit_s is None else options.time_limit_s
    if not 0 < limit_s < float("inf"):
        raise usage_error(
            f"--time-limit has to be above 0, and it is {limit_s}", location="--time-limit", hint="use 60"
        )
    folder = _disk_folder(options)
    with tempfile.TemporaryDirectory(prefix="gptplan-") as temporary:
        result = Path(temporary) / "measurements.json"
        command = calibration_command(
            result,
            device=device,
            devices=devices,
            time_limit_s=limit_s,
            folder=folder,
            free_bytes=shutil.disk_usage(folder).free,
        )
        code = run_command(command, stdout=STDERR)
        if code or not result.is_file():
            return code or ExitCode.BUG
        measured = msgspec.json.decode(result.read_bytes(), type=Measurements)
    _write(options, measured, calibrated(measured, origin), origin)
    return ExitCode.OK


def _origin(options: CalibrateOptions, gpus: list[str]) -> Origin:
    known = builtin_for(gpus[0]) if gpus else CPU_BASE
    if options.base is None and known is None:
        raise usage_error(
            f"no built-in spec is that of {gpus[0]}, and one machine cannot tell the network between several",
            location="--base",
            hint="name the spec to take the rest from, such as `--base a100-80g`",
        )
    base = load_spec(options.base or known or "", HardwareSpec)
    named = any(part.lower() in gpus[0].lower() for part in base.device_names) if gpus else base.device == "cpu"
    return Origin(
        name=spec_name(options.output.stem),
        base=base,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        same_device=named,
        devices_per_node=len(gpus) or base.devices_per_node,
    )


def _devices(options: CalibrateOptions, gpus: list[str]) -> int:
    most = len(gpus) or os.cpu_count() or 1
    if options.devices is None:
        return len(gpus) or min(CPU_PROCESSES, most)
    if not 1 <= options.devices <= most:
        what = f"{most} GPUs" if gpus else f"{most} cores and no GPU"
        raise usage_error(
            f"--devices has to be from 1 to {most}, and it is {options.devices}: this machine has {what}",
            location="--devices",
            hint=f"use `--devices {most}`, or leave it out",
        )
    return options.devices


def _disk_folder(options: CalibrateOptions) -> Path:
    folder = options.disk or options.output.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise usage_error(
            "there is no such folder, or it cannot be written to",
            location=f"--disk {folder}",
            hint="name a folder on the drive that offloaded states would be on",
        )
    if file_system(folder) in MEMORY_FILE_SYSTEMS:
        message = f"{folder} is in memory, so the drive's rates will be those of memory"
        note = Diagnostic(rule="CAL001", severity="warning", message=message, hint="name a folder with `--disk`")
        sys.stderr.write(render(note) + "\n")
    return folder.resolve()


def _write(options: CalibrateOptions, measured: Measurements, spec: HardwareSpec, origin: Origin) -> None:
    write_bytes(to_toml(spec).encode(), options.output, what="spec")
    written = load_spec(str(options.output), HardwareSpec)
    if options.as_json:
        print_json(
            {
                "spec_file": str(options.output),
                "name": written.name,
                "digest": spec_digest(written),
                "base": origin.base.name,
                "spec": to_builtins(written),
                "measurements": to_builtins(measured),
            }
        )
        return
    calibration_view.print_hardware(measured, written, origin.base, str(options.output))


def _refit(options: CalibrateOptions, runs: Path) -> int:
    for option, value in (("--devices", options.devices), ("--base", options.base), ("--disk", options.disk)):
        if value is not None:
            raise usage_error(
                f"{option} is for measuring, and --from refits a stack", location=option, hint="leave it out"
            )
    hardware = load_spec(options.gpu, HardwareSpec) if options.gpu is not None else None
    stack = load_spec(options.stack, StackSpec) if options.stack is not None else None
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    found = refit(runs, name=spec_name(options.output.stem), stack=stack, hardware=hardware, date=today)
    if found.is_better:
        write_bytes(to_toml(found.stack).encode(), options.output, what="spec")
        load_spec(str(options.output), StackSpec)
    if options.as_json:
        print_json({"spec_file": str(options.output) if found.is_better else None, **found.document()})
    else:
        calibration_view.print_refit(found, str(options.output))
    if found.is_better:
        return ExitCode.OK
    message = "the fitted constants predict the rows that were held out no better; no spec was written"
    hint = "record more runs, of more kinds of layouts"
    sys.stderr.write(render(Diagnostic(rule="CAL003", message=message, hint=hint)) + "\n")
    return ExitCode.NEGATIVE
