"""The commands that take a plan and neither make nor run it: verify, diff and report."""

from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
PlanArgument = Annotated[Path, typer.Argument(metavar="FILE.plan", help="A plan that `gptplan solve` wrote.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (verify, diff, report):
        app.command()(command)


def verify(  # noqa: PLR0913 - one parameter for each option
    plan: PlanArgument,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 3,
    max_processes: Annotated[int, typer.Option(help="Processes to start at most; a larger layout is shrunk.")] = 8,
    on_gpus: Annotated[
        bool, typer.Option("--on-gpus", help="Use this machine's GPUs, as ZeRO stage 3 needs. [default: CPU cores]")
    ] = False,
    own_precision: Annotated[
        bool,
        typer.Option(
            "--own-precision", help="In the precision of the plan. [default: fp32, or bf16 where ZeRO is used]"
        ),
    ] = False,
    nvme_path: Annotated[
        Path | None, typer.Option(help="Folder for a plan that offloads to NVMe. [default: a temporary one]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and data.")] = 7,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for logs of failures.")] = Path("runs"),
    without: Annotated[
        list[str] | None,
        typer.Option(
            help="Switch a workaround off, to see its error found; repeatable: causal-attention, sequence-bias-sum, "
            "depth-sum."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Train a plan's layout on a small model and compare losses and gradients with one process."""
    from planner.cli import verifying
    from planner.launch.workers import VerifyOptions

    chosen: Any = tuple(without or ())
    options = VerifyOptions(
        steps=steps,
        seed=seed,
        max_processes=max_processes,
        on_gpus=on_gpus,
        own_precision=own_precision,
        nvme_path=nvme_path,
        output=output,
        without=chosen,
    )
    raise typer.Exit(verifying.verify(plan, options, as_json=as_json))


def diff(
    first: Annotated[Path, typer.Argument(metavar="A.plan", help="A plan.")],
    second: Annotated[Path, typer.Argument(metavar="B.plan", help="Another plan.")],
    as_json: JsonOption = False,
) -> None:
    """Compare two plans: what was asked, layouts, predicted figures, and which is faster and why."""
    from planner.cli import comparing

    raise typer.Exit(comparing.diff(first, second, as_json=as_json))


def report(
    plan: PlanArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="HTML file. [default: the plan's name]")] = None,
) -> None:
    """Write a plan as one HTML page: layout, memory, time, proof and assumptions."""
    from planner.cli import comparing

    raise typer.Exit(comparing.report(plan, output))
