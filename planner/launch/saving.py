"""What the checkpoints of a run will take, told and judged before it starts."""

import shutil
from pathlib import Path

from planner.cost_model.checkpoints import CheckpointCost, checkpoint_cost
from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.jobs.job import CheckpointSection
from planner.plans.plan import Plan
from planner.specs.units import format_bytes, format_seconds


def check_room(plan: Plan, settings: CheckpointSection, folder: Path) -> str:
    """What the checkpoints of a run into ``folder`` take, in words; nothing where it saves none.

    Raises:
        PlanError: the drive has no room for one.
    """
    if not settings.every_steps:
        return ""
    cost = checkpoint_cost(plan.problem, plan.layout)
    free = shutil.disk_usage(folder).free
    if free < cost.num_bytes:
        raise PlanError(
            Diagnostic(
                rule="RUN011",
                message=f"a checkpoint takes {format_bytes(cost.num_bytes)}, and {format_bytes(free)} is free",
                location=str(folder),
                hint="make room, name another drive with `--run-dir`, or add `--set checkpoint.every_steps=0`",
            ),
            exit_code=ExitCode.NEGATIVE,
        )
    # A new one is whole before the oldest goes.
    most = (settings.keep + 1) * cost.num_bytes
    note = f"; with {settings.keep} kept they need {format_bytes(most)}, and {format_bytes(free)} is free"
    return _words(cost, plan, settings) + note * (free < most)


def _words(cost: CheckpointCost, plan: Plan, settings: CheckpointSection) -> str:
    waits = settings.wait or plan.layout.offload.tier == "nvme"
    ranks = min(plan.problem.devices_per_node, plan.layout.num_devices)
    stall = cost.write_s if waits else cost.stall_s
    host = ranks * cost.assembled_bytes if waits else cost.host_bytes(ranks)
    return (
        f"a checkpoint takes {format_bytes(cost.num_bytes)}, and {format_bytes(host)} of a node's memory; "
        f"predicted: written in {format_seconds(cost.write_s)}, training stands still {format_seconds(stall)}"
    )
