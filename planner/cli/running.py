"""``run``: execute a plan."""

import math
import os
import socket
import sys
import tempfile
from pathlib import Path

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.launch.nvme import check_nvme, moment_bytes
from planner.launch.toolchain import check_toolchain
from planner.launch.workers import OUT_OF_MEMORY_FILE, RunOptions, check_machine, run_plan, torchrun_command
from planner.plans.plan import Plan, read_plan
from planner.specs.units import format_bytes
from planner.validation.recording import append_run, check_record


def run(path: Path, options: RunOptions) -> int:
    """Verify the plan and the machine, then run the workers and pass their exit code on."""
    plan = read_plan(path)
    _check_options(options)
    check_machine(plan, str(path), options.node_rank)
    check_toolchain(plan)
    if plan.layout.offload.tier == "nvme":
        check_nvme(plan, options.nvme_path, options.node_rank)
        _say_what_nvme_means(plan, options)
    torchrun_command(plan, path, options)  # refuses what does not go together, before anything is made
    if plan.problem.num_nodes > 1:
        _check_host(options.rendezvous or "")
    table = None if options.node_rank > 0 else options.record
    if table is not None:
        check_record(table, plan)
    _check_output(options.output)
    return run_plan(plan, path, options) if table is None else _run_recorded(plan, path, options, table)


def _run_recorded(plan: Plan, path: Path, options: RunOptions, table: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="gptplan-") as folder:
        out_of_memory = Path(folder) / "out-of-memory"
        os.environ[OUT_OF_MEMORY_FILE] = str(out_of_memory)
        code = run_plan(plan, path, options)
        if code == ExitCode.OK:
            metrics = options.output / f"{path.stem}.metrics.jsonl"
            append_run(table, plan, name=path.stem, outcome="fit", metrics=metrics)
        elif out_of_memory.exists():
            append_run(table, plan, name=path.stem, outcome="oom", metrics=None)
    return code


def _say_what_nvme_means(plan: Plan, options: RunOptions) -> None:
    size = format_bytes(moment_bytes(plan, options.node_rank))
    sys.stderr.write(
        f"note: the optimizer's moments, {size} on this node, are in {options.nvme_path} during the run; "
        "they cannot be saved in a checkpoint and are removed at its end\n"
    )


def _check_options(options: RunOptions) -> None:
    rate = options.learning_rate
    if not (math.isfinite(rate) and rate > 0):
        raise _out_of_range("--learning-rate", "a number above 0", rate, "3e-4")
    for option, value, least, example in (
        ("--steps", options.steps, 1, "50"),
        ("--warmup-steps", options.warmup_steps, 0, "10"),
    ):
        if value < least:
            raise _out_of_range(option, f"at least {least}", value, example)


def _check_host(endpoint: str) -> None:
    host = endpoint.rpartition(":")[0].strip("[]")
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        message = f"this machine finds no host `{host}`: {error.strerror}"
        hint = "name node 0 as every node knows it, or by its address, with `--rendezvous HOST:PORT`"
        found = Diagnostic(rule="RUN010", message=message, location=f"--rendezvous {endpoint}", hint=hint)
        raise PlanError(found, exit_code=ExitCode.NEGATIVE) from error


def _check_output(folder: Path) -> None:
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


def _out_of_range(option: str, wanted: str, value: float, example: str) -> Exception:
    return usage_error(
        f"{option} has to be {wanted}, and it is {value}", location=option, hint=f"use `{option} {example}`"
    )
