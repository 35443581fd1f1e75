"""What can be known without devices and other nodes: the job, its data and tokenizer, and room for checkpoints."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from planner.diagnostics import Diagnostic, PlanError
from planner.doctor.examining import nearest_folder
from planner.jobs.job import Job
from planner.jobs.judge import Judgement, judge
from planner.jobs.sources import tokenizer_of
from planner.launch.saving import check_room
from planner.plans.plan import Plan


class Readiness(NamedTuple):
    """What was found, and what a checkpoint takes in words."""

    judged: Judgement
    findings: list[Diagnostic]
    room: str


def readiness(plan: Plan, job: Job, run_dir: Path) -> Readiness:
    """Judge a job under its plan, and the drive that its run will write to."""
    judged = judge(job, plan)
    findings, room = list(judged.findings), ""
    try:
        tokenizer_of(job)
    except PlanError as error:  # which a judgement that lacks the data has not come to
        findings += [one for one in error.diagnostics if one not in findings]
    try:
        room = check_room(plan, job.checkpoint, nearest_folder(run_dir))
    except PlanError as error:
        findings += [msgspec.structs.replace(one, location=str(run_dir)) for one in error.diagnostics]
    return Readiness(judged, findings, room)


def paths_of(job: Job) -> list[str]:
    """Data and tokenizer of a job, which every node reads."""
    paths = [*job.data.paths, *job.evaluation.paths]
    if job.tokenizer.path:
        paths.append(str(job.tokenizer.path))
    return list(dict.fromkeys(paths))
