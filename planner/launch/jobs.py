"""The job of a run: from what was typed to the files in the run's folder from which every worker learns it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from planner.data.tokenizing import Progress
from planner.handover.work import JOB_FILE, SOURCES_FILE, RunOptions
from planner.jobs.job import Job
from planner.jobs.reading import read_job, text_of
from planner.jobs.sources import Opened, Prepared, check_evaluation, open_samples, prepare
from planner.outputs import write_output
from planner.plans.plan import Plan

SHORT_FORMS = {
    "steps": "schedule.steps",
    "data": "data.paths",
    "tokenizer": "tokenizer.path",
    "seed": "seed",
    "learning_rate": "optimizer.learning_rate",
    "warmup_steps": "schedule.warmup_steps",
}
"""Option of a run to the key of a job that it stands for."""


class Ready(NamedTuple):
    """A job whose data every worker can map."""

    job: Job
    prepared: Prepared
    opened: Opened


def job_of(options: RunOptions, environ: Mapping[str, str]) -> Job:
    """The job file of a run, with settings over it, and short forms over those.

    Raises:
        PlanError: with everything that is wrong with it.
    """
    typed = {key: getattr(options, name) for name, key in SHORT_FORMS.items()}
    given: dict[str, Any] = {key: value for key, value in typed.items() if value is not None}
    for key in ("data.paths", "tokenizer.path"):
        if key in given:
            given[key] = str(given[key])
    if "data.paths" in given:
        given["data.paths"] = [given["data.paths"]]
    job = read_job(options.job, options.settings, environ, given)
    if options.steps is not None and job.schedule.tokens is not None:
        job = msgspec.structs.replace(job, schedule=msgspec.structs.replace(job.schedule, tokens=None))
    return job


def make_ready(job: Job, plan: Plan, progress: Progress = lambda done, total, tokens: None) -> Ready:
    """Have the data of a job as tokens, and map it.

    Raises:
        PlanError: it cannot be used, or there is too little of it.
    """
    prepared = prepare(job, plan.problem.model, progress)
    opened = open_samples(prepared.sources, job, plan.problem.seq_len)
    check_evaluation(opened, job, plan.problem.global_batch)
    return Ready(job, prepared, opened)


def write_job(ready: Ready, folder: Path, *, force: bool = False) -> None:
    """Leave the job and its sources in the folder of a run, where the workers find them.

    Raises:
        PlanError: they cannot be written.
    """
    sources = msgspec.json.format(msgspec.json.encode(ready.prepared.sources)) + b"\n"
    for name, content in ((JOB_FILE, text_of(ready.job).encode()), (SOURCES_FILE, sources)):
        write_output(content, folder / name, what="job", force=force, option="--run-dir")
