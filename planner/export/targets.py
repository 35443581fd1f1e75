"""What a plan can be exported to, by the words that are typed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from planner.export.deepspeed import deepspeed
from planner.export.kubernetes import kubernetes
from planner.export.megatron import megatron
from planner.export.options import ExportOptions, Target
from planner.export.python import python
from planner.export.slurm import slurm
from planner.export.ssh import ssh
from planner.export.torchrun import torchrun
from planner.plans.plan import Plan


class Exporter(NamedTuple):
    """One kind of file."""

    text_of: Callable[[Plan, Path, ExportOptions], str]
    """The file of a plan, which is in a path as typed.

    Raises:
        PlanError: the target does not have what the plan needs.
    """
    what: str
    """In messages."""
    start: str
    """What to type next, with ``{file}``."""


TARGETS: Mapping[Target, Exporter] = {
    "slurm": Exporter(slurm, "batch script", "`sbatch {file}`"),
    "torchrun": Exporter(torchrun, "script", "on every node: `HEAD=NODE0 NODE_RANK=N bash {file}`"),
    "kubernetes": Exporter(kubernetes, "manifest", "its first lines say how"),
    "ssh": Exporter(ssh, "script", "`bash {file}`"),
    "python": Exporter(python, "training script", "its first lines say how"),
    "megatron": Exporter(megatron, "script", "its first lines say how"),
    "deepspeed": Exporter(deepspeed, "script", "its first lines say how"),
}
"""By the value of ``--to``."""
