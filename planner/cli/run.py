"""``run``: execute a plan."""

import signal
from pathlib import Path

from planner.cli.parameters import PlanFile
from planner.diagnostics import ExitCode, render, usage_error
from planner.handover.work import RunOptions
from planner.outputs import say
from planner.specs.units import format_bytes


class Run(RunOptions, frozen=True, kw_only=True):
    """The options of ``run``."""

    plan: PlanFile


def run(options: Run) -> int:
    """Execute a plan on Colossal-AI, on this machine's GPUs or CPU cores."""
    from planner.launch.machine import check_machine, check_toolchain
    from planner.launch.meeting import resolved
    from planner.launch.nvme import check_nvme, moment_bytes
    from planner.launch.processes import execute, training
    from planner.rules.reading import read_sound_plan
    from planner.validation.recording import append_run, check_record
    from planner.views.caveats import tight_memory

    plan = read_sound_plan(options.plan)
    check_machine(plan, str(options.plan), options.node_rank)
    check_toolchain(plan)
    if plan.layout.offload.tier == "nvme":
        check_nvme(plan, options.nvme_path, options.node_rank)
        _say_what_nvme_means(moment_bytes(plan, options.node_rank), options)
    work = training(plan, options.plan, options)  # refuses what does not go together
    if work.others is not None:
        resolved(work.others[0])
    table = None if options.node_rank > 0 else options.record
    if table is not None:
        check_record(table, plan)
    _check_output(options.output)
    for warning in tight_memory(plan):
        say(render(warning))
    outcome, metrics = execute(work), options.output / f"{options.plan.stem}.metrics.jsonl"
    if outcome.interrupted_by is not None:
        name = signal.Signals(outcome.interrupted_by).name
        say(f"ended by {name}: every rank has ended and the model was not saved; metrics: {metrics}")
    if table is not None and outcome.code == ExitCode.OK:
        append_run(table, plan, name=options.plan.stem, outcome="fit", metrics=metrics)
    elif table is not None and outcome.out_of_memory:
        append_run(table, plan, name=options.plan.stem, outcome="oom", metrics=None)
    return outcome.code


def _say_what_nvme_means(moments_bytes: int, options: Run) -> None:
    size = format_bytes(moments_bytes)
    say(
        f"note: the optimizer's moments, {size} on this node, are in {options.nvme_path} during the run; "
        "they cannot be saved in a checkpoint and are removed at its end"
    )


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
