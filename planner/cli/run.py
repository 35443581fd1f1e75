"""``run``: execute a plan."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.parameters import PlanFile
from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.handover.work import OUT_OF_MEMORY_FILE, RunOptions
from planner.specs.units import format_bytes

if TYPE_CHECKING:
    from planner.launch.processes import Command
    from planner.plans.plan import Plan


class Run(RunOptions, frozen=True, kw_only=True):
    """The options of ``run``."""

    plan: PlanFile


def run(options: Run) -> int:
    """Execute a plan on Colossal-AI, on this machine's GPUs or CPU cores."""
    from planner.launch.machine import check_machine, check_toolchain
    from planner.launch.nvme import check_nvme, moment_bytes
    from planner.launch.processes import run_command, torchrun_command
    from planner.plans.plan import read_plan
    from planner.validation.recording import check_record

    plan = read_plan(options.plan)
    check_machine(plan, str(options.plan), options.node_rank)
    check_toolchain(plan)
    if plan.layout.offload.tier == "nvme":
        check_nvme(plan, options.nvme_path, options.node_rank)
        _say_what_nvme_means(moment_bytes(plan, options.node_rank), options)
    command = torchrun_command(plan, options.plan, options)  # refuses what does not go together
    if plan.problem.num_nodes > 1:
        _check_host(options.rendezvous or "")
    table = None if options.node_rank > 0 else options.record
    if table is not None:
        check_record(table, plan)
    _check_output(options.output)
    return run_command(command) if table is None else _run_recorded(plan, command, options, table)


def _run_recorded(plan: "Plan", command: "Command", options: Run, table: Path) -> int:
    import tempfile

    from planner.launch.processes import run_command
    from planner.validation.recording import append_run

    name = options.plan.stem
    with tempfile.TemporaryDirectory(prefix="gptplan-") as folder:
        out_of_memory = Path(folder) / "out-of-memory"
        command.env[OUT_OF_MEMORY_FILE] = str(out_of_memory)
        code = run_command(command)
        if code == ExitCode.OK:
            append_run(table, plan, name=name, outcome="fit", metrics=options.output / f"{name}.metrics.jsonl")
        elif out_of_memory.exists():
            append_run(table, plan, name=name, outcome="oom", metrics=None)
    return code


def _say_what_nvme_means(moments_bytes: int, options: Run) -> None:
    size = format_bytes(moments_bytes)
    sys.stderr.write(
        f"note: the optimizer's moments, {size} on this node, are in {options.nvme_path} during the run; "
        "they cannot be saved in a checkpoint and are removed at its end\n"
    )


def _check_host(endpoint: str) -> None:
    import socket

    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        message = f"this machine finds no host `{host}`: {error.strerror}"
        hint = "name node 0 as every node knows it, or by its address, with `--rendezvous HOST:PORT`"
        found = Diagnostic(rule="RUN010", message=message, location=f"--rendezvous {endpoint}", hint=hint)
        raise PlanError(found, exit_code=ExitCode.NEGATIVE) from error


def _check_output(folder: Path) -> None:
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise usage_error(
            f"metrics and logs cannot be written there: {error.strerror}",
            location=f"--output {folder}",
            hint="name another folder with `--output`",
        ) from error
