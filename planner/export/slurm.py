"""A batch script for Slurm: one task a node, saved before the time limit, put back in the queue until it is done."""

from pathlib import Path

from planner.export.launching import MINUTE_S, launch_values
from planner.export.options import ExportOptions
from planner.export.rendering import filled, sh
from planner.plans.plan import Plan


def slurm(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``.

    Raises:
        PlanError: gptplan does not run the plan, or the options contradict it.
    """
    hours, minutes = divmod(options.time_limit, MINUTE_S)
    parent = options.run_dir or Path("runs") / path.stem
    return filled(
        "slurm.sh.j2",
        **launch_values(plan, path, options),
        limit=f"{hours:02}:{minutes:02}:00",
        run_dir_sh=f'{sh(parent)}/"slurm-$SLURM_JOB_ID"',
        anew="[[ ${SLURM_RESTART_COUNT:-0} -gt 0 ]]",
        head="Node 0 is the first of the allocation, which runs this script. HEAD names it by the network that the "
        "nodes share; on that node itself, too, the name has to be of that address, not of 127.0.1.1.",
        head_sh='$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        port_sh="$((20000 + SLURM_JOB_ID % 10000))",
        example="`sbatch --export=ALL,PLAN=other.plan THIS`",
    )
