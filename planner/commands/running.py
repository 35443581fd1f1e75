"""``run``: execute a plan."""

import math
from pathlib import Path

from planner.diagnostics import usage_error
from planner.launch import RunOptions, check_machine, run_plan
from planner.plan import read_plan


def run(path: Path, options: RunOptions) -> int:
    """Verify the plan and the machine, then run the workers and pass their exit code on."""
    plan = read_plan(path)
    _check_options(options)
    check_machine(plan, str(path))
    return run_plan(plan, path, options)


def _check_options(options: RunOptions) -> None:
    rate = options.learning_rate
    if not (math.isfinite(rate) and rate > 0):
        raise _out_of_range("--learning-rate", "a number above 0", rate, "3e-4")
    for option, value, least, example in (
        ("--steps", options.steps, 1, "50"),
        ("--warmup-steps", options.warmup_steps, 0, "10"),
    ):
        if value < least:
            raise _out_of_range(option, f"at least {least}", value, example)


def _out_of_range(option: str, wanted: str, value: float, example: str) -> Exception:
    return usage_error(
        f"{option} has to be {wanted}, and it is {value}", location=option, hint=f"use `{option} {example}`"
    )
