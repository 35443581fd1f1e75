"""A command from the struct of its options: the parameters of Typer, and what several commands share."""

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args, get_origin

import msgspec
import typer

from planner.cli.interrupting import interruptible
from planner.diagnostics import ExitCode, PlanError, usage_error
from planner.handover.options import Declared, Option, check_ranges, declared
from planner.inputs import is_folder
from planner.outputs import Ours, check_output, say, write_output

Json = Annotated[bool, Option("Print one JSON document.", ("--json",))]
Force = Annotated[bool, Option("Replace a file that another command or a person wrote.")]
PlanFile = Annotated[Path, Option("A plan that `gptplan solve` wrote.", metavar="FILE.plan", is_argument=True)]


class JsonOnly(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a command that lists."""

    as_json: Json = False


class OnePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a command that reads a plan."""

    plan: PlanFile
    as_json: Json = False


def command(function: Callable[[Any], int]) -> Callable[..., None]:
    """What Typer takes for a command, made from the struct that its ``options`` are.

    The struct gives the parameters, the docstring of ``function`` the help; what it returns is the exit code.
    """
    struct = function.__annotations__["options"]

    def run(**typed: Any) -> None:
        given = {field: tuple(value) if isinstance(value, list) else value for field, value in typed.items()}
        options = struct(**{field: value for field, value in given.items() if value is not None})
        check_ranges(options)
        try:
            with interruptible():
                code = function(options)
        except KeyboardInterrupt:  # of which Typer makes an exit without a word
            say("interrupted")
            code = ExitCode.INTERRUPTED
        raise typer.Exit(code)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    signature = inspect.Signature([_parameter(one) for one in declared(struct)])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run


def _parameter(one: Declared) -> inspect.Parameter:
    option, kind, default = one.option, one.type, one.default
    more: dict[str, Any] = {"help": _help(option), "metavar": option.metavar}
    more["show_default"] = "[default: " not in option.help
    if get_origin(kind) is tuple:
        item = option.reads or get_args(kind)[0]
        kind = GenericAlias(list, (item,))
        default = default or None
        more["metavar"] = option.metavar or (f"<{item.__name__.lower()}>" if isinstance(item, type) else None)
    if default is msgspec.NODEFAULT:
        default = inspect.Parameter.empty
    if (known := option.known) is not None:
        more["autocompletion"] = lambda: list(known())  # Typer itself leaves out what does not begin as typed
    info = typer.Argument(**more) if option.is_argument else typer.Option(*one.names, **more)
    annotation = Annotated[kind, info]  # type: ignore[valid-type]
    return inspect.Parameter(one.field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(option: Option) -> str:
    return option.help if option.range is None else f"{option.help} [{option.range}]".lstrip()


def print_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    try:
        text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    except UnicodeEncodeError:  # names of files that are no UTF-8
        text = json.dumps(msgspec.to_builtins(document), indent=2)
    sys.stdout.write(_UNUSUAL.sub(_as_json, text) + "\n")


_UNUSUAL = re.compile(r"[^ -~\n]")


def _as_json(match: re.Match[str]) -> str:
    """A character of a string, escaped as JSON does it unless it can be shown."""
    return match[0] if match[0].isprintable() else json.dumps(match[0])[1:-1]


def check_table(out: Path | None, example: str, ours: Ours, *, force: bool) -> None:
    """Refuse to write rows to a folder, into one that does not exist, or over what another command wrote.

    Raises:
        PlanError: that is what ``--out`` names.
    """
    if out is None:
        return
    if is_folder(out) or not is_folder(out.parent):
        what = "this is a folder" if is_folder(out) else "there is no such folder to write into"
        raise usage_error(what, location=str(out), hint=f"name a file with `--out {example}`")
    check_output(out, what="table", ours=ours, force=force, option="--out")


def answer_with_table(
    out: Path | None, table: Callable[[], bytes], ours: Ours, document: Any, show: Callable[[], None], *, force: bool
) -> None:
    """Write the rows of an answer where ``--out`` says, and the answer itself also where that fails.

    Args:
        out: where to; ``None``: nowhere.
        table: makes the rows, as CSV.
        ours: tells a table of the same command.
        document: the answer for ``--json``.
        show: prints the answer.
        force: whether to replace a file whoever wrote it.

    Raises:
        PlanError: the rows cannot be written; it has the answer where nothing is printed.
    """
    try:
        if out is not None:
            write_output(table(), out, what="table", ours=ours, force=force, option="--out")
    except PlanError as error:
        error.answer = document
        if document is None:
            show()
        raise
    show()
