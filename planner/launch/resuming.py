"""What a run goes on from, found and judged before its ranks start."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from planner.checkpoints.folders import CHECKPOINTS, check_files, checkpoints_in, find_checkpoint, run_of
from planner.checkpoints.manifest import check_model, read_manifest
from planner.diagnostics import Diagnostic, usage_error
from planner.handover.metrics import read_records
from planner.handover.work import JOB_FILE, METRICS_FILE, NEWEST, RunOptions
from planner.jobs.batches import BatchSchedule
from planner.launch.folder import RUNS
from planner.plans.plan import Plan


class Resumed(NamedTuple):
    """What a run goes on from."""

    options: RunOptions
    """With the checkpoint that is meant."""
    goes_on: bool
    """Whether the run of the checkpoint goes on in its own folder."""
    step: int = 0
    """Steps that are done; 0 where node 0 knows them, or none are."""
    consumed_sequences: int = 0
    """What they have learned from."""
    seed: int | None = None
    """Of the order in which they took it."""
    data_fingerprint: str = ""
    """Of the files that it was in; empty where the metrics of their run do not tell."""


def resumed(plan: Plan, name: str, options: RunOptions) -> Resumed:
    """The checkpoint that ``--resume`` means, judged.

    Without ``--run-dir`` it does, and without ``--job`` with its own job. Node 0 tells the others.

    Raises:
        PlanError: there is no such checkpoint, it is damaged, or of another model.
    """
    if options.resume is None:
        return Resumed(options, goes_on=False)
    if options.node_rank:
        return Resumed(options, goes_on=options.run_dir is not None and options.run_dir.exists())
    checkpoint = find_checkpoint(_named(name, options)).resolve()
    manifest = read_manifest(checkpoint)
    check_model(manifest.facts, plan.problem.model, checkpoint)
    check_files(checkpoint, manifest, ())
    own = run_of(checkpoint)
    folder = options.run_dir or own
    goes_on = own is not None and folder is not None and folder.resolve() == own
    job = own / JOB_FILE if own is not None and options.job is None else options.job
    told: RunOptions = msgspec.structs.replace(
        options,
        resume=checkpoint,
        run_dir=folder if goes_on else options.run_dir,
        job=job if job is not None and job.exists() else options.job,
    )
    facts = manifest.facts
    data = "" if own is None else _data_of(own / METRICS_FILE, facts.step)
    return Resumed(told, goes_on, facts.step, facts.consumed_sequences, facts.seed, data)


def _data_of(metrics: Path, step: int) -> str:
    """The fingerprint of what the last start of a run before the end of ``step`` learned from."""
    headers = [one for one in read_records(metrics) if one["record"] == "header" and one.get("step", 0) < step]
    return str(headers[-1].get("data_fingerprint", "")) if headers else ""


def check_steps(found: Resumed, steps: int) -> None:
    """Refuse a run whose checkpoint has all of its steps.

    Raises:
        PlanError: it has.
    """
    if found.step >= max(steps, 1):
        raise usage_error(
            f"the checkpoint is after step {found.step}, and the run has {steps} steps",
            location=str(found.options.resume),
            hint=f"for example `--steps {2 * found.step}`",
        )


def moved(found: Resumed, batches: BatchSchedule) -> list[Diagnostic]:
    """A warning where the sequences of the steps that are done are not those of this run's: its batch is another."""
    expected = batches.consumed(found.step)
    if not found.step or found.consumed_sequences == expected:
        return []
    gap = expected - found.consumed_sequences
    what = f"{gap:,} sequences are passed over" if gap > 0 else f"{-gap:,} sequences are learned from again"
    warning = Diagnostic(
        rule="USAGE",
        severity="warning",
        message=f"step {found.step + 1} of this run begins at sequence {expected:,}, and the checkpoint is at "
        f"{found.consumed_sequences:,}: {what}",
        location=str(found.options.resume),
        hint="go on with the global batch and the ramp of the run that saved, or begin anew with `--init-from`",
    )
    return [warning]


def reordered(found: Resumed, seed: int, data_fingerprint: str) -> list[Diagnostic]:
    """A warning where samples no longer come in the order of the steps that are done."""
    changes = []
    if found.seed not in (None, seed):
        changes.append(f"the seed is {seed}, and was {found.seed}")
    if found.data_fingerprint not in ("", data_fingerprint):
        changes.append("the data, with that of evaluations, is in other files, or these have changed")
    if not changes:
        return []
    warning = Diagnostic(
        rule="USAGE",
        severity="warning",
        message=f"{'; '.join(changes)}: of the samples of the {found.step:,} steps that are done some may come again, "
        "others never, and what was held out may have been learned from",
        location=str(found.options.resume),
        hint="go on with the seed and the files of before, or begin anew with `--init-from`",
    )
    return [warning]


def _named(name: str, options: RunOptions) -> Path:
    if options.resume is not None and (options.resume != Path(NEWEST) or options.resume.exists()):
        return _newest_run(options.resume)
    if options.run_dir is not None:
        return options.run_dir
    return _newest_run((options.output or RUNS) / (name.strip(".") or "plan"))


def _newest_run(folder: Path) -> Path:
    """Of a folder of runs the newest one that has a complete checkpoint; any other folder itself."""
    if not folder.is_dir() or checkpoints_in(folder / CHECKPOINTS) or checkpoints_in(folder):
        return folder
    # Names of runs sort by the time of their start.
    runs = sorted(folder.iterdir(), reverse=True)
    return next((run for run in runs if checkpoints_in(run / CHECKPOINTS)), folder)
