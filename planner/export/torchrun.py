"""A script that torchrun starts on every node, for clusters that know nothing else."""

from pathlib import Path

from planner.export.launching import launch_values
from planner.export.options import ExportOptions
from planner.export.rendering import filled, sh
from planner.plans.plan import Plan


def torchrun(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``.

    Raises:
        PlanError: gptplan does not run the plan, or the options contradict it.
    """
    return filled(
        "torchrun.sh.j2",
        **launch_values(plan, path, options),
        run_dir_sh=sh(options.run_dir or Path("runs") / path.stem / "torchrun"),
        anew="",
        head="HEAD is node 0 by the network that the nodes share; torchrun takes the port after PORT.",
        head_sh="?the name or address of node 0",
        port_sh="29500",
        example="`PLAN=other.plan ./THIS`",
    ).replace("${HEAD:-?", "${HEAD:?")
