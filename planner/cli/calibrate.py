"""``calibrate``: measure this machine into a hardware spec, or refit a stack's constants to recorded runs."""

import datetime
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Json, print_json
from planner.diagnostics import Diagnostic, ExitCode, render, usage_error
from planner.handover.options import Option, Range
from planner.inputs import is_folder
from planner.outputs import say
from planner.plans.question import GPU_NAMES, STACK_NAMES
from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec, spec_digest, to_builtins

DEVICES = Range(most=1024, example="2")
LONGEST_S = 86_400


class Calibrate(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``calibrate``."""

    output: Annotated[Path, Option("The spec to write.", ("-o", "--output"), metavar="FILE.toml")]
    devices: Annotated[
        int | None, Option("Devices to measure. [default: all GPUs, or 2 CPU processes]", range=DEVICES)
    ] = None
    base: Annotated[
        str | None,
        Option("Spec for what one node cannot tell, such as its network. [default: the card's]", known=GPU_NAMES),
    ] = None
    disk: Annotated[Path | None, Option("Folder whose drive is measured. [default: that of -o]")] = None
    time_limit_s: Annotated[
        float | None,
        Option(
            "Seconds to measure for. [default: 110 on GPUs, 40 on a CPU]",
            ("--time-limit",),
            range=Range(least=0, above=True, most=LONGEST_S, example="60"),
        ),
    ] = None
    force: Annotated[bool, Option("Replace FILE.toml if it exists.")] = False
    runs: Annotated[
        Path | None, Option("Refit the stack's constants to recorded runs instead.", ("--from",), metavar="RUNS.csv")
    ] = None
    gpu: Annotated[
        str | None, Option("With --from: the card of the runs. [default: what each row names]", known=GPU_NAMES)
    ] = None
    stack: Annotated[
        str | None, Option("With --from: the stack to refit. [default: that of most rows]", known=STACK_NAMES)
    ] = None
    kernels: Annotated[
        tuple[Path, ...],
        Option("Derive the spec from tables of measured kernels instead; repeatable.", metavar="TABLE.csv"),
    ] = ()
    device: Annotated[
        str | None, Option("With --kernels: the device as the tables call it. [default: that of --base]")
    ] = None
    multiprocessors: Annotated[
        int | None,
        Option("With --kernels: of the device. [default: the base's]", range=Range(most=4096, example="132")),
    ] = None
    as_json: Json = False


def calibrate(options: Calibrate) -> int:
    """Measure this machine, or read tables of kernels, and write a hardware spec; or refit a stack to recorded runs."""
    _check_output(options.output, force=options.force)
    if not options.kernels:
        of_tables = {"--device": options.device, "--multiprocessors": options.multiprocessors}
        _refuse("{option} goes with --kernels alone", of_tables)
    else:
        others = {"--devices": options.devices, "--disk": options.disk, "--from": options.runs}
        _refuse("{option} does not go with --kernels", others | {"--gpu": options.gpu, "--stack": options.stack})
        return _derive(options)
    if options.runs is None:
        _refuse("{option} goes with --from alone", {"--gpu": options.gpu, "--stack": options.stack})
        return _measure(options)
    for_measuring = {"--devices": options.devices, "--base": options.base, "--disk": options.disk}
    _refuse("{option} is for measuring, and --from refits a stack", for_measuring)
    return _refit(options, options.runs)


def _refuse(message: str, given: Mapping[str, object]) -> None:
    for option, value in given.items():
        if value is not None:
            raise usage_error(message.format(option=option), location=option, hint="leave it out")


def _check_output(output: Path, *, force: bool) -> None:
    if output.suffix != ".toml":
        raise usage_error("a spec file ends in .toml", location=str(output), hint=f"use `-o {output.stem}.toml`")
    if is_folder(output):
        raise usage_error("this is a folder", location=str(output), hint="name a file with `-o FILE.toml`")
    if os.path.lexists(output) and not force:
        hint = "name another file with `-o`, or replace it with `--force`"
        raise usage_error("this file is there already", location=str(output), hint=hint)
    if not is_folder(output.parent) or not os.access(output.parent, os.W_OK | os.X_OK):
        raise usage_error(
            "cannot write the spec: there is no such folder, or it cannot be written to",
            location=str(output),
            hint="name a file in another folder with `-o`",
        )


def _measure(options: Calibrate) -> int:
    from planner.calibration.hardware import calibrated, spec_name
    from planner.calibration.measuring import measure
    from planner.outputs import write_output
    from planner.specs.toml import to_toml
    from planner.views import calibration as calibration_view
    from planner.views.terminal import print_content

    found = measure(
        name=spec_name(options.output.stem),
        base=options.base,
        devices=options.devices,
        disk=options.disk or options.output.parent,
        time_limit_s=options.time_limit_s,
    )
    if isinstance(found, int):
        return found
    measured, origin = found
    write_output(to_toml(calibrated(measured, origin)).encode(), options.output, what="spec", force=options.force)
    written = load_spec(str(options.output), HardwareSpec)
    if not options.as_json:
        print_content(*calibration_view.hardware(measured, written, origin.base, str(options.output)))
        return ExitCode.OK
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
    return ExitCode.OK


def _derive(options: Calibrate) -> int:
    from planner.calibration.hardware import Origin, spec_name
    from planner.calibration.kernels import derive, read_kernels
    from planner.outputs import write_output
    from planner.specs.toml import to_toml
    from planner.views import calibration as calibration_view
    from planner.views.terminal import print_content

    if options.base is None:
        hint = "name the spec to take the rest from, such as `--base h100-80g`"
        raise usage_error("kernels tell products and links, and nothing else of a card", location="--base", hint=hint)
    base = load_spec(options.base, HardwareSpec)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    origin = Origin(
        spec_name(options.output.stem), base, today, same_device=True, devices_per_node=base.devices_per_node
    )
    kernels = read_kernels(options.kernels, options.device, base)
    found = derive(kernels, origin, options.multiprocessors, options.kernels)
    write_output(to_toml(found.spec).encode(), options.output, what="spec", force=options.force)
    written = load_spec(str(options.output), HardwareSpec)
    if options.as_json:
        fit = found.tiles
        judged = fit and {"error": fit.error, "worst": fit.worst, "fitted": fit.fitted, "held_out": fit.held_out}
        answer = {"spec_file": str(options.output), "name": written.name, "digest": spec_digest(written)}
        rest = {"base": base.name, "spec": to_builtins(written), "products": judged, "left_out": kernels.left_out}
        print_json(answer | rest)
    else:
        print_content(*calibration_view.derived(found, base, str(options.output)))
    return ExitCode.OK


def _refit(options: Calibrate, runs: Path) -> int:
    from planner.calibration.hardware import spec_name
    from planner.calibration.refit import refit
    from planner.outputs import write_output
    from planner.specs.toml import to_toml
    from planner.views import calibration as calibration_view
    from planner.views.terminal import print_content

    hardware = load_spec(options.gpu, HardwareSpec) if options.gpu is not None else None
    stack = load_spec(options.stack, StackSpec) if options.stack is not None else None
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    found = refit(runs, name=spec_name(options.output.stem), stack=stack, hardware=hardware, date=today)
    if found.is_better:
        write_output(to_toml(found.stack).encode(), options.output, what="spec", force=options.force)
        load_spec(str(options.output), StackSpec)
    if options.as_json:
        print_json({"spec_file": str(options.output) if found.is_better else None, **found.document()})
    else:
        print_content(*calibration_view.refitted(found, str(options.output)))
    if found.is_better:
        return ExitCode.OK
    message = "the fitted constants predict the rows that were held out no better; no spec was written"
    hint = "record more runs, of more kinds of layouts"
    say(render(Diagnostic(rule="CAL003", message=message, hint=hint)))
    return ExitCode.NEGATIVE
