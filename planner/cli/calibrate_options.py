"""The options of ``gptplan calibrate``."""

from pathlib import Path
from typing import Annotated

import typer


def calibrate(  # noqa: PLR0913 - one parameter for each option
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.toml", help="The spec to write.")],
    devices: Annotated[
        int | None, typer.Option("--devices", help="Devices to measure. [default: all GPUs, or 2 CPU processes]")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Spec for what one node cannot tell, such as its network. [default: the card's]"),
    ] = None,
    disk: Annotated[
        Path | None, typer.Option("--disk", help="Folder whose drive is measured. [default: that of -o]")
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", help="Seconds to measure for. [default: 110 on GPUs, 40 on a CPU]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE.toml if it exists.")] = False,
    runs: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUNS.csv", help="Refit the stack's constants to recorded runs instead."),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="With --from: the card of the runs. [default: what each row names]")
    ] = None,
    stack: Annotated[
        str | None, typer.Option("--stack", help="With --from: the stack to refit. [default: that of most rows]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Measure this machine and write a hardware spec, or refit a stack to recorded runs."""
    from planner.cli import calibrating

    options = calibrating.CalibrateOptions(
        output=output,
        devices=devices,
        base=base,
        disk=disk,
        time_limit_s=time_limit,
        force=force,
        runs=runs,
        gpu=gpu,
        stack=stack,
        as_json=as_json,
    )
    raise typer.Exit(calibrating.calibrate(options))
