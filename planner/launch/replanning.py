"""Solving a plan's question again for the devices that are left of those it was made for."""

from collections.abc import Sequence

import msgspec

from planner.diagnostics import Diagnostic, ExitCode, PlanError
from planner.layouts.pins import parse_pin
from planner.layouts.words import in_one_line
from planner.plans.plan import Plan
from planner.specs.units import format_seconds

_OF_COUNT = {
    *("tensor_parallel", "tensor_depth", "pipeline_parallel", "data_parallel", "sequence_parallel_degree"),
    *("micro_batch", "num_microbatches", "num_model_chunks", "layers_per_stage", "recompute_layers_per_stage"),
    "recompute_pointwise",
}
"""Fields whose pins were meant for the number of devices of the plan."""


def replanned(plan: Plan, count: int, pins: Sequence[str]) -> Plan:
    """The best plan of the same question on at most ``count`` devices, as many of them as some layout can use.

    The global batch stays, so that the run learns the same. ``pins`` are as ``solve --pin`` takes them.

    Raises:
        PlanError: none of them fits.
    """
    from planner import solver  # noqa: PLC0415 - OR-Tools takes a second, and most runs are never planned again

    kept = {field: value for field, value in plan.problem.pins.items() if field not in _OF_COUNT}
    kept |= dict(parse_pin(text, "faults.replan_pins") for text in pins)
    for devices in range(count, 0, -1):
        answer = solver.solve(msgspec.structs.replace(plan.problem, num_devices=devices, pins=kept))
        if answer.plan is not None:
            return answer.plan
    message = f"{count} of {plan.layout.num_devices} devices are left, and no layout of the model fits on them"
    hint = "`gptplan solve` for so many says why; go on with `--resume` when there are more"
    raise PlanError(Diagnostic(rule="RUN003", message=message, hint=hint), exit_code=ExitCode.NEGATIVE)


def change_words(before: Plan, after: Plan, there: int) -> str:
    """What a run changes to and what that costs, in words."""
    layouts = f"{in_one_line(after.layout)} instead of {in_one_line(before.layout)}"
    steps = f"{format_seconds(after.predicted.step_s)} instead of {format_seconds(before.predicted.step_s)}"
    return f"{there} {'device is' if there == 1 else 'devices are'} there: {layouts}; predicted step {steps}"
