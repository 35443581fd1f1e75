"""``job``: write a job file to start from."""

from pathlib import Path
from typing import Annotated

import msgspec

from planner.cli.parameters import Force
from planner.diagnostics import ExitCode
from planner.handover.options import Option
from planner.handover.work import JobFile, Settings
from planner.outputs import STDOUT, write_output


class JobOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of ``job``."""

    job: JobFile = None
    settings: Settings = ()
    output: Annotated[Path, Option("Where to write it.", ("-o", "--output"))] = STDOUT
    force: Force = False


def job(options: JobOptions) -> int:
    """Write a job file with every key, its meaning and its default."""
    from planner.jobs.reading import read_job, text_of

    text = text_of(read_job(options.job, options.settings), commented=True)
    # A job that is there has been edited by somebody.
    write_output(text.encode(), options.output, what="job", force=options.force)
    return ExitCode.OK
