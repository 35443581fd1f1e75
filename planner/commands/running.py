"""``run``: execute a plan."""

from pathlib import Path

from planner.diagnostics import usage_error
from planner.launch import RunOptions, check_machine, run_plan
from planner.plan import read_plan


def run(path: Path, options: RunOptions) -> int:
    """Verify the plan and the machine, then run the workers and pass their exit code on."""
    plan = read_plan(path)
    if options.steps < 1:
        raise usage_error(
            f"--steps has to be at least 1, and it is {options.steps}", location="--steps", hint="use `--steps 50`"
        )
    check_machine(plan, str(path))
    return run_plan(plan, path, options)
