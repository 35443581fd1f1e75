"""What every way of starting `gptplan run` on several nodes has in common."""

import math
import re
from pathlib import Path
from typing import Any

from planner import __version__
from planner.cost_model.checkpoints import checkpoint_cost
from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error
from planner.export.environment import GUIDE, settings
from planner.export.options import ExportOptions
from planner.handover.work import STACK
from planner.jobs.reading import read_job
from planner.launch.nvme import moment_bytes
from planner.layouts.sequences import passes_keys
from planner.layouts.words import in_one_line
from planner.plans.plan import Plan
from planner.specs.units import format_bytes, format_seconds

MINUTE_S = 60
LEAST_NOTICE_S = 120
MOST_NOTICE_S = 65_535
"""The longest notice that Slurm takes (sbatch(1), --signal)."""
CHECKPOINT = "checkpoints/step-*[0-9]/manifest.json"
"""A complete checkpoint in the folder of a run: its manifest is written last, and a folder in the making ends in
letters."""


def launch_values(plan: Plan, path: Path, options: ExportOptions) -> dict[str, Any]:
    """What the templates of launch scripts name.

    Raises:
        PlanError: gptplan does not run the plan, the job file is none, or no folder on NVMe is named.
    """
    check_runs(plan)
    read_job(options.job, options.settings)
    problem = plan.problem
    return {
        **header_values(plan, path),
        "plan": path,
        "name": plain_name(path),
        "nodes": problem.num_nodes,
        "devices": plan.layout.num_devices,
        "per_node": min(problem.devices_per_node, plan.layout.num_devices),
        "on_gpus": problem.hardware.device == "cuda",
        "environment": settings(plan),
        "options": _run_options(options),
        "job": options.job,
        "nvme_path": options.nvme_path if _needs_nvme(plan, options) else None,
        "nvme_size": format_bytes(moment_bytes(plan)),
        "guide": GUIDE,
        "alone": False,
        "checkpoint": CHECKPOINT,
        **_notice(plan),
    }


def header_values(plan: Plan, path: Path) -> dict[str, Any]:
    """What the first lines of every file say: where it is from, and which rank is where."""
    return {
        "version": __version__,
        "source": path.name,
        "digest": plan.digest,
        "summary": f"{plan.problem.model.name} on {plan.problem.num_devices} x {plan.problem.hardware.name}: "
        f"{in_one_line(plan.layout)}",
        "ranks": rank_lines(plan),
    }


def plain_name(path: Path) -> str:
    """The name of a plan in letters that every scheduler takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).strip("-.") or "plan"


def rank_lines(plan: Plan) -> tuple[str, ...]:
    """The order of ranks that the plan assumes, in words."""
    layout, per_node = plan.layout, plan.problem.devices_per_node
    axes = {"data": ("dp", "DP"), "pipeline": ("pp", "PP"), "tensor": ("tp", "TP")}
    outer, middle, _ = plan.problem.stack.rank_order.split("-")
    inside = layout.sequence_parallel_degree
    lines = [
        f"rank = ({axes[outer][0]} x {axes[middle][1]} + {axes[middle][0]}) x TP + tp, TP {layout.tensor_parallel}, "
        f"PP {layout.pipeline_parallel}, DP {layout.data_parallel}"
    ]
    if inside > 1:
        ring = passes_keys(plan.problem)
        told = f"TP {layout.tensor_parallel}: ranks that pass keys on" if ring else "1: ranks that exchange heads"
        lines.append(f"and times {inside}, at a distance of {told}")
    if plan.problem.num_nodes > 1:
        lines.append(f"node n has ranks {per_node} n to {per_node} n + {per_node - 1}, in the order of its devices;")
        lines.append("neighbours in the list of nodes should be near each other in the network")
    return tuple(lines)


def check_runs(plan: Plan) -> None:
    """Refuse a plan for another stack than the one that runs.

    Raises:
        PlanError: with exit code 1.
    """
    stack = plan.problem.stack.name
    if stack == STACK:
        return
    raise PlanError(
        Diagnostic(
            rule="RUN004",
            message=f"only {STACK} plans can run, this one is for {stack}",
            hint=f"solve with `--stack {STACK}`, or export a plan for Megatron-LM with `--to megatron` and one for "
            "Megatron-DeepSpeed with `--to deepspeed`",
        ),
        exit_code=ExitCode.NEGATIVE,
    )


def _run_options(options: ExportOptions) -> tuple[str, ...]:
    """The settings of the job, as `run` takes them."""
    return tuple(word for setting in options.settings for word in ("--set", setting))


def _needs_nvme(plan: Plan, options: ExportOptions) -> bool:
    if plan.layout.offload.tier != "nvme":
        return False
    if options.nvme_path is None:
        raise usage_error(
            f"the plan offloads {format_bytes(moment_bytes(plan))} of a node to NVMe, and no folder is named",
            location="--nvme-path",
            hint="for example `--nvme-path /local/nvme`, on a drive that every node has",
        )
    return True


def _notice(plan: Plan) -> dict[str, Any]:
    """How long before its end a run has to be told: until the step is done and a checkpoint written, twice over."""
    step_s, write_s = plan.predicted.step_s, checkpoint_cost(plan.problem, plan.layout).write_s
    needed = LEAST_NOTICE_S + 2 * (step_s + write_s)
    notice_s = min(MINUTE_S * math.ceil(needed / MINUTE_S), MOST_NOTICE_S)
    why = f"a step of {format_seconds(step_s)} and a checkpoint of {format_seconds(write_s)}"
    return {"notice_s": notice_s, "notice_why": f"predicted: {why}; twice that and {LEAST_NOTICE_S} s"}
