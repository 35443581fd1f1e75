"""What a run goes on from, found and judged before its ranks start."""

from pathlib import Path

import msgspec

from planner.checkpoints.folders import CHECKPOINTS, check_files, checkpoints_in, find_checkpoint
from planner.checkpoints.manifest import check_model, read_manifest
from planner.diagnostics import usage_error
from planner.handover.work import JOB_FILE, NEWEST, RunOptions
from planner.launch.folder import RUNS
from planner.plans.plan import Plan


def resumed(plan: Plan, name: str, options: RunOptions) -> tuple[RunOptions, bool]:
    """The options with the checkpoint that is meant, and whether its run goes on in its own folder.

    Without ``--run-dir`` it does, and without ``--job`` with its own job. Node 0 tells the others.

    Raises:
        PlanError: there is no such checkpoint, it is damaged, or of another model.
    """
    if options.resume is None:
        return options, False
    if options.node_rank:
        return options, options.run_dir is not None and options.run_dir.exists()
    checkpoint = find_checkpoint(_named(name, options)).resolve()
    manifest = read_manifest(checkpoint)
    check_model(manifest.facts, plan.problem.model, checkpoint)
    check_files(checkpoint, manifest, ())
    own = checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None
    folder = options.run_dir or own
    goes_on = own is not None and folder is not None and folder.resolve() == own
    job = own / JOB_FILE if own is not None and options.job is None else options.job
    told: RunOptions = msgspec.structs.replace(
        options,
        resume=checkpoint,
        run_dir=folder if goes_on else options.run_dir,
        job=job if job is not None and job.exists() else options.job,
    )
    return told, goes_on


def check_steps(options: RunOptions, steps: int) -> None:
    """Refuse a run whose checkpoint has all of its steps.

    Raises:
        PlanError: it has.
    """
    if options.resume is None or options.node_rank:
        return
    step = read_manifest(options.resume).facts.step
    if step >= steps:
        raise usage_error(
            f"the checkpoint is after step {step}, and the run has {steps} steps",
            location=str(options.resume),
            hint=f"for example `--steps {2 * step}`",
        )


def _named(name: str, options: RunOptions) -> Path:
    if options.resume is not None and (options.resume != Path(NEWEST) or options.resume.exists()):
        return options.resume
    if options.run_dir is not None:
        return options.run_dir
    # Names of runs sort by the time of their start.
    parent = (options.output or RUNS) / (name.strip(".") or "plan")
    runs = sorted(parent.iterdir(), reverse=True) if parent.is_dir() else []
    return next((run for run in runs if checkpoints_in(run / CHECKPOINTS)), parent)
