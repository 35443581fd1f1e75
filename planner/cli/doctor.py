"""``doctor``: whether the nodes are as a plan needs them, told before it runs."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from planner.cli.parameters import Force, Json, print_json
from planner.diagnostics import ExitCode, usage_error
from planner.handover.doctor import DoctorOptions
from planner.handover.options import Option
from planner.handover.work import RunOptions
from planner.outputs import check_output, say
from planner.specs.files import to_builtins

if TYPE_CHECKING:
    from planner.doctor.examining import Report
    from planner.doctor.readiness import Readiness
    from planner.jobs.job import Job
    from planner.plans.plan import Plan


class Doctor(DoctorOptions, frozen=True, kw_only=True):
    """The options of ``doctor``."""

    plan: Annotated[
        Path | None, Option("The plan that will run. [default: no plan]", metavar="FILE.plan", is_argument=True)
    ] = None
    write: Annotated[
        Path | None, Option("Write what was measured as a hardware spec, for `--gpu`.", metavar="FILE.toml")
    ] = None
    force: Force = False
    as_json: Json = False


def doctor(options: Doctor) -> int:
    """Check devices, versions, clocks, folders, ports and links of all nodes before a plan runs on them."""
    from planner.doctor.examining import digest_of
    from planner.doctor.readiness import readiness
    from planner.launch.placing import excusing, placed
    from planner.rules.reading import read_sound_plan

    _check(options)
    plan = None if options.plan is None else read_sound_plan(options.plan)
    if options.login_node:
        if plan is None:
            raise usage_error("which plan is it for", location="--login-node", hint="`gptplan doctor FILE.plan`")
        return _answer_ready(readiness(plan, _job(options), options.run_dir or Path("runs")), options)
    num_nodes = plan.problem.num_nodes if plan is not None else _nodes_of_job()
    options = placed(options, num_nodes)
    with excusing(num_nodes, digest_of(plan), options) as meets:
        job = _job(options) if plan is not None else None
        if options.write is not None and not options.node_rank:
            check_output(options.write, what="spec", force=options.force, option="--write")
        meets()
        return _examine(plan, job, options, num_nodes)


def _job(options: Doctor) -> "Job":
    from planner.launch.jobs import job_of

    return job_of(RunOptions(job=options.job, settings=options.settings), os.environ)


def _check(options: Doctor) -> None:
    from planner.inputs import is_folder

    if options.write is not None and (is_folder(options.write) or not is_folder(options.write.parent)):
        raise usage_error(
            "there is no such folder to write into, or this is one",
            location=f"--write {options.write}",
            hint="name a file with `--write FILE.toml`",
        )
    if options.write is not None and options.login_node:
        raise usage_error("nothing is measured with --login-node", location="--write", hint="leave one of them out")


def _nodes_of_job() -> int:
    from planner.launch.environments import find_place

    place = find_place(os.environ)
    return 1 if place is None else place.num_nodes or 1


def _examine(plan: "Plan | None", job: "Job | None", options: Doctor, num_nodes: int) -> int:
    from planner.doctor.examining import Examination
    from planner.doctor.readiness import paths_of, readiness

    name = "" if options.plan is None else str(options.plan)
    paths = paths_of(job) if job is not None else []
    outcome, report = Examination(plan, name, options, num_nodes, paths).run()
    if outcome.interrupted_by is not None:
        say("interrupted: there is no answer")
        return outcome.code
    if options.node_rank:
        say("node 0 has the answer")
        return outcome.code
    ready = None
    if plan is not None and job is not None:
        ready = readiness(plan, job, options.run_dir or Path("runs"))
        report.findings.extend(ready.findings)
    written = _write(plan, report, options)
    return _answer(report, options, written=written, failed=bool(outcome.code))


def _write(plan: "Plan | None", report: "Report", options: Doctor) -> list[str]:
    """Write the spec; the names of its measured fields."""
    from planner.doctor.spec import measured_spec
    from planner.outputs import write_output
    from planner.specs.toml import to_toml

    if options.write is None:
        return []
    spec, fields = measured_spec(plan, report, options.write.stem)
    if fields:
        write_output(to_toml(spec).encode(), options.write, what="spec", force=options.force, option="--write")
    else:
        say("nothing was measured, so that no spec was written")
    return fields


def _answer(report: "Report", options: Doctor, *, written: list[str], failed: bool) -> int:
    from planner.views import doctor as view
    from planner.views.terminal import print_content

    is_healthy = not failed and not any(one.severity == "error" for one in report.findings)
    if options.as_json:
        print_json(
            {
                "healthy": is_healthy,
                "findings": to_builtins(report.findings),
                "nodes": [
                    to_builtins(one) | {"clock_ahead_s": report.clocks_s.get(one.node, 0.0)} for one in report.facts
                ],
                "ranks": to_builtins(report.found.ranks),
                "networks": {str(rank): text for rank, text in report.found.networks.items()},
                "groups": [view.group_document(one) for one in report.groups],
                "seconds": report.seconds,
                "spec_file": str(options.write) if written else None,
                "spec_fields": written,
            }
        )
    else:
        print_content(*view.report(report))
        if written:
            say(f"wrote {options.write}, with measured {', '.join(written)}; use it with `--gpu {options.write}`")
    return ExitCode.OK if is_healthy else ExitCode.NEGATIVE


def _answer_ready(ready: "Readiness", options: Doctor) -> int:
    from planner.views import doctor as view
    from planner.views.terminal import print_content

    is_ready = not any(one.severity == "error" for one in ready.findings)
    if options.as_json:
        document: dict[str, Any] = {
            "healthy": is_ready,
            "findings": to_builtins(ready.findings),
            "sources": [one._asdict() for one in ready.judged.sources],
            "steps": ready.judged.batches.steps,
            "checkpoint_bytes": ready.judged.checkpoint_bytes,
        }
        print_json(document)
    else:
        print_content(*view.ready(ready))
    return ExitCode.OK if is_ready else ExitCode.NEGATIVE
