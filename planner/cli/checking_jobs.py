"""What ``check`` does with a job."""

import os
from collections.abc import Sequence
from pathlib import Path

from planner.cli.checking import print_listed
from planner.cli.parameters import print_json
from planner.diagnostics import ExitCode, usage_error
from planner.jobs.judge import judge
from planner.jobs.reading import read_job
from planner.plans.plan import read_plan
from planner.specs.files import to_builtins
from planner.views import data as data_view
from planner.views.terminal import print_content


def check_job(path: Path, plan_path: Path | None, form: str, settings: Sequence[str] = ()) -> int:
    """Judge a job, with ``settings`` over it as ``--set`` takes them, under the plan that it is for."""
    job = read_job(path, settings, environ=os.environ)
    if plan_path is None:
        hint = f"`gptplan check {path} --plan FILE.plan`"
        raise usage_error("which plan is the job for", location="--plan", hint=hint)
    found = judge(job, read_plan(plan_path))
    if form == "json":
        print_json(
            {
                "valid": found.valid,
                "diagnostics": to_builtins(found.findings),
                "digest": job.digest,
                "sources": [one._asdict() | {"epochs": found.epochs(one)} for one in found.sources],
                "steps": found.batches.steps,
                "batches": [level._asdict() for level in found.batches.levels],
                "tokens": found.tokens,
                "checkpoint_bytes": found.checkpoint_bytes,
            }
        )
    elif form != "text":
        print_listed([(path, found.findings)], form)
    else:
        print_content(*data_view.job_judgement(found))
    return ExitCode.OK if found.valid else ExitCode.NEGATIVE
