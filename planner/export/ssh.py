"""A script that starts plain hosts over SSH, and ends them with it."""

import re
from pathlib import Path

from planner.diagnostics import usage_error
from planner.export.launching import launch_values
from planner.export.options import ExportOptions
from planner.export.rendering import filled, sh
from planner.plans.plan import Plan


def ssh(plan: Plan, path: Path, options: ExportOptions) -> str:
    """The script of a plan in ``path``.

    Raises:
        PlanError: gptplan does not run the plan, or the options contradict it.
    """
    _check_hosts(plan, options.hosts)
    return filled(
        "ssh.sh.j2",
        **launch_values(plan, path, options),
        hosts=options.hosts,
        run_dir_sh=sh(options.run_dir or Path("runs") / path.stem / "ssh"),
        anew="",
        head="HEAD is node 0 by the network that the nodes share.",
        head_sh="${hosts[0]##*@}",
        port_sh="29500",
        gptplan="$(command -v gptplan)",
        example="`PLAN=other.plan ./THIS`",
    )


def _check_hosts(plan: Plan, hosts: tuple[str, ...]) -> None:
    nodes = plan.problem.num_nodes
    if hosts and len(hosts) != nodes:
        raise usage_error(
            f"the plan uses {nodes} nodes, and {len(hosts)} are named",
            location="--host",
            hint="name each once, in the order of their ranks, or none and give the script HOSTS",
        )
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9_\[:][\w.@:%\[\]-]*", host, re.ASCII):
            raise usage_error(f"`{host}` is no host", location="--host", hint="for example `--host node0`")
