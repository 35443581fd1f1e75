"""The command line: reads options, calls the planner, renders its answer, sets the exit code.

Imports nothing heavy at module level, so that ``gptplan --help`` answers at once.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer

from planner import __version__
from planner.cli import ending
from planner.cli import run as running
from planner.cli.calibrate import calibrate
from planner.cli.check import check
from planner.cli.diff import diff
from planner.cli.doctor import doctor
from planner.cli.export import export
from planner.cli.job import job
from planner.cli.learned import export_weights, sample
from planner.cli.listing import explain, hardware, models, rules, stacks
from planner.cli.parameters import command
from planner.cli.report import report
from planner.cli.runs import runs
from planner.cli.show import show
from planner.cli.solve import solve
from planner.cli.sweep import sweep
from planner.cli.tokenize import tokenize
from planner.cli.validate import validate
from planner.cli.verify import verify
from planner.handover.work import NEWEST

COMMANDS: tuple[Callable[[Any], int], ...] = (
    solve,
    sweep,
    job,
    tokenize,
    doctor,
    running.run,
    runs,
    show,
    verify,
    diff,
    report,
    check,
    validate,
    calibrate,
    sample,
    export,
    export_weights,
    rules,
    explain,
    models,
    hardware,
    stacks,
)
"""In the order of the help."""

app = typer.Typer(
    name="gptplan",
    help="Plan the training of GPT-style models on Colossal-AI: find the fastest layout that is valid and fits, "
    "freeze it in a plan file, and run it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for function in COMMANDS:
    app.command()(command(function))


@app.callback(invoke_without_command=True)
def _global(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(f"gptplan {__version__}")
        raise typer.Exit


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit; no traceback reaches a user."""
    sys.exit(run(argv))


def run(argv: list[str] | None = None) -> int:
    """Run a command; its exit code."""
    try:
        code: Any = app(args=list(_with_values(sys.argv[1:] if argv is None else argv)), standalone_mode=False)
    except BaseException as error:
        return ending.exit_code(error, as_json="--json" in (sys.argv[1:] if argv is None else argv))
    return int(code or 0)


def _with_values(argv: Sequence[str]) -> Iterator[str]:
    """The command line with the value of ``--resume`` where it has none, of which Typer knows nothing."""
    for one, following in itertools.zip_longest(argv, argv[1:]):
        yield one
        if one == "--resume" and (following is None or following.startswith("-")):
            yield NEWEST


if __name__ == "__main__":
    main()
