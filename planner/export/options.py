"""What `gptplan export` may be told beside the plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from planner.handover.options import Option, Range
from planner.handover.work import JobFile, Settings

Target = Literal["slurm", "torchrun", "kubernetes", "ssh", "python", "megatron", "deepspeed"]
Workload = Literal["trainjob", "job"]
MOST_MINUTES = 525_600


OF_ONE_TARGET: Mapping[str, Target] = {
    "time_limit": "slurm",
    "hosts": "ssh",
    "workload": "kubernetes",
    "image": "kubernetes",
    "claim": "kubernetes",
}
"""Fields of the options that only one target reads."""


class ExportOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the file is to say beside the plan."""

    job: JobFile = None
    settings: Settings = ()
    run_dir: Annotated[
        Path | None,
        Option("Folder of the run, on a drive that all nodes share. [default: runs/PLAN, by job]", metavar="FOLDER"),
    ] = None
    nvme_path: Annotated[
        Path | None, Option("Folder on a local NVMe drive of every node, for a plan that offloads to one.")
    ] = None
    time_limit: Annotated[
        int, Option("slurm: minutes after which the job is ended.", range=Range(most=MOST_MINUTES, example="1440"))
    ] = 1440
    hosts: Annotated[
        tuple[str, ...], Option("ssh: a node, in the order of their ranks; repeatable.", ("--host",), metavar="HOST")
    ] = ()
    workload: Annotated[
        Workload, Option("kubernetes: `trainjob`, for Kubeflow Trainer, or `job`, an Indexed Job without an operator.")
    ] = "trainjob"
    image: Annotated[str, Option("kubernetes: the container image that has gptplan[cluster].", metavar="IMAGE")] = (
        "gptplan:latest"
    )
    claim: Annotated[
        str, Option("kubernetes: the claim of a volume that all nodes share, for data and runs.", metavar="NAME")
    ] = "gptplan"
