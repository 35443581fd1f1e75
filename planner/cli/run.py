"""``run``: execute a plan."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from planner.cli.parameters import PlanFile
from planner.diagnostics import ExitCode, render
from planner.handover.options import Option
from planner.handover.work import METRICS_FILE, RunOptions
from planner.outputs import say
from planner.specs.units import format_bytes

if TYPE_CHECKING:
    from planner.jobs.batches import BatchSchedule
    from planner.jobs.job import Job
    from planner.launch.jobs import Ready
    from planner.launch.processes import Outcome
    from planner.launch.resuming import Resumed
    from planner.plans.plan import Plan


class Run(RunOptions, frozen=True, kw_only=True):
    """The options of ``run``."""

    plan: PlanFile
    keep_going: Annotated[
        bool, Option("Start ranks that have died again, from the last checkpoint; with fewer devices, planned again.")
    ] = False
    force: Annotated[
        bool, Option("Use a --run-dir that has files: those of an earlier run are replaced, its checkpoints put aside.")
    ] = False


def run(options: Run) -> int:
    """Execute a plan on Colossal-AI, on this machine's GPUs or CPU cores."""
    from planner.launch.folder import never_stepped, run_folder
    from planner.launch.keeping import Keeper
    from planner.launch.placing import excusing, placed
    from planner.launch.processes import say_interrupted
    from planner.launch.resuming import moved, reordered, resumed
    from planner.rules.reading import read_sound_plan

    plan, name = read_sound_plan(options.plan), options.plan.stem
    began_s, placed_options = time.time(), placed(options, plan.problem.num_nodes)
    with excusing(plan.problem.num_nodes, plan.digest, placed_options) as meets:
        found = resumed(plan, name, placed_options)
        told, goes_on = found.options, found.goes_on
        job, batches = _job(plan, found)
        force = options.force or never_stepped(told)
        _check(plan, told, options.plan, force=force or goes_on)
        done = found.step if goes_on else 0
        with run_folder(plan, name, told, force=force, goes_on=goes_on, done=done) as folder:
            say(f"folder of this run: {folder}")
            data = _make_ready(plan, job, told, folder, force=force or goes_on)
            for warning in [*moved(found, batches), *reordered(found, job.seed, data)]:
                say(render(warning))
            meets()
            outcome = Keeper(plan, folder, job, told, keep_going=options.keep_going).run(began_s)
            _tell_end(outcome, folder, options.plan)
            if outcome.interrupted_by is not None:
                say_interrupted(outcome, _progress(folder, told, batches.steps))
            if told.record is not None and not told.node_rank:
                _record(told.record, plan, name, outcome, folder)
            return outcome.code


def _make_ready(plan: "Plan", job: "Job", options: RunOptions, folder: Path, *, force: bool) -> str:
    """Have everything in the folder that the ranks need, and say what they will use; the fingerprint of the data."""
    from planner.launch.jobs import make_ready, write_job
    from planner.launch.saving import check_room
    from planner.views.caveats import tight_memory
    from planner.views.terminal import counting

    if takes := check_room(plan, job.checkpoint, folder) if not options.node_rank else "":
        say(takes)
    with counting("tokenizing") as progress:
        ready = make_ready(job, plan, progress)
    _say_data(ready, plan)
    write_job(ready, folder, force=force)
    for warning in tight_memory(plan):
        say(render(warning))
    if options.resume is not None:
        say(f"goes on from {options.resume}")
    return ready.prepared.sources.fingerprint


def _tell_end(outcome: "Outcome", folder: Path, plan_path: Path) -> None:
    if outcome.code == ExitCode.SAVED:
        why = "asked to end" if outcome.asked_to_end else "its time is over"
        say(f"{why}: the run has saved; `gptplan run {plan_path} --resume {folder}` goes on")


def _record(table: Path, plan: "Plan", name: str, outcome: "Outcome", folder: Path) -> None:
    from planner.validation.recording import append_run

    if outcome.code == ExitCode.OK:
        append_run(table, plan, name=name, outcome="fit", metrics=folder / METRICS_FILE)
    elif outcome.out_of_memory:
        append_run(table, plan, name=name, outcome="oom", metrics=None)


def _job(plan: "Plan", found: "Resumed") -> tuple["Job", "BatchSchedule"]:
    """The job of a run and its batches, of which some steps may be done.

    Raises:
        PlanError: it cannot be run under ``plan``, or is done.
    """
    from planner.jobs.batches import batches_of
    from planner.jobs.judge import refuse
    from planner.launch.jobs import job_of
    from planner.launch.resuming import check_steps

    job = job_of(found.options, os.environ)
    batches = batches_of(job, plan.problem)
    check_steps(found, batches.steps)
    refuse(job, plan, found.step)
    return job, batches


def _check(plan: "Plan", options: RunOptions, plan_path: Path, *, force: bool) -> None:
    """Refuse what cannot run: first what was typed, then what this machine lacks."""
    from planner.checkpoints.beginnings import check_weights
    from planner.launch.folder import check_run_dir
    from planner.launch.machine import check_machine, check_toolchain
    from planner.launch.meeting import resolved
    from planner.launch.nvme import check_nvme, moment_bytes
    from planner.launch.processes import other_nodes
    from planner.validation.recording import check_record

    if options.init_from is not None:
        check_weights(options.init_from, plan.problem.model)
    check_run_dir(options, force=force)
    if options.record is not None and options.node_rank == 0:
        check_record(options.record, plan)
    check_machine(plan, str(plan_path), options.node_rank)
    check_toolchain(plan)
    if plan.layout.offload.tier == "nvme":
        check_nvme(plan, options.nvme_path, options.node_rank)
        size = format_bytes(moment_bytes(plan, options.node_rank))
        say(
            f"note: the optimizer's moments, {size} on this node, are in {options.nvme_path} during the run; "
            "they are removed at its end; training waits while they are read for a checkpoint"
        )
    if (others := other_nodes(plan, options)) is not None:
        resolved(others[0])


def _say_data(ready: "Ready", plan: "Plan") -> None:
    """What the run takes of its data, and what it leaves: nothing is cut, repeated or skipped without a word."""
    from planner.jobs.batches import batches_of
    from planner.views import data as data_view

    opened, batches = ready.opened, batches_of(ready.job, plan.problem)
    for manifest in ready.prepared.manifests:
        for line in data_view.left_out(manifest, 0):
            say(line)
    for line in data_view.usage(opened.training.usage(batches.samples)):
        say(line)
    for line in data_view.ramp(batches):
        say(line)
    if opened.held_out_documents:
        say(f"held out: {data_view.count(opened.held_out_documents, 'document')}")


def _progress(folder: Path, options: RunOptions, steps: int) -> str:
    from planner.checkpoints.folders import CHECKPOINTS, checkpoints_in
    from planner.launch.folder import steps_done

    if options.node_rank > 0:
        return f"node 0 has metrics and checkpoints, logs are in {folder}"
    saved = checkpoints_in(folder / CHECKPOINTS)
    model = f"the newest checkpoint is {saved[-1]}" if saved else "the model was not saved"
    return f"{model}; {steps_done(folder)} of {steps} steps are done, metrics and logs are in {folder}"
