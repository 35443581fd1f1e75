"""``show`` and ``check``: read a plan and judge it."""

from pathlib import Path

from planner import explain as tables
from planner.commands.output import print_json
from planner.cost_model import predict
from planner.diagnostics import Diagnostic, ExitCode
from planner.plan import Plan, read_plan
from planner.prediction import Prediction
from planner.rules import violations
from planner.rules.capacity import DEVICE_MEMORY, HOST_MEMORY
from planner.spec_files import to_builtins
from planner.units import format_gib


def show(path: Path, *, as_json: bool) -> int:
    """Print a plan that passes its own checks."""
    plan = read_plan(path)
    if as_json:
        print_json(to_builtins(plan))
    else:
        tables.print_plan(plan)
    return ExitCode.OK


def check(path: Path, *, as_json: bool) -> int:
    """Judge the layout of a plan by all rules and the memory model."""
    plan = read_plan(path)
    broken = violations(plan.problem, plan.layout)
    predicted = None if broken else predict(plan.problem, plan.layout)
    misfits = [] if predicted is None else _misfits(plan, predicted)
    if as_json:
        print_json(
            {
                "valid": not broken, "fits": not broken and not misfits, "layout": to_builtins(plan.layout),
                "diagnostics": to_builtins([*broken, *misfits]), "predicted": to_builtins(predicted),
            }
        )  # fmt: skip
    else:
        tables.print_check(plan, [*broken, *misfits])
    return ExitCode.NEGATIVE if broken or misfits else ExitCode.OK


def _misfits(plan: Plan, predicted: Prediction) -> list[Diagnostic]:
    stages = enumerate(predicted.stages)
    number, fullest = max(stages, key=lambda at: at[1].peak_bytes + at[1].reserve_bytes - at[1].capacity_bytes)
    room = fullest.capacity_bytes - fullest.reserve_bytes
    found = []
    if fullest.peak_bytes > room:
        found.append(
            DEVICE_MEMORY.diagnose(
                plan.problem, plan.layout, stage=number, phase=fullest.peak_phase, need=format_gib(fullest.peak_bytes),
                peak=format_gib(fullest.peak_bytes), room=format_gib(room), reserve=format_gib(fullest.reserve_bytes),
                capacity=format_gib(fullest.capacity_bytes),
            )
        )  # fmt: skip
    host = plan.problem.hardware.host.memory_bytes
    if predicted.host_bytes_per_node > host:
        found.append(
            HOST_MEMORY.diagnose(
                plan.problem, plan.layout, need=format_gib(predicted.host_bytes_per_node), capacity=format_gib(host)
            )
        )
    return found
