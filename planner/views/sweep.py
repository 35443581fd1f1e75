"""A sweep for people: its table on stdout, its progress on stderr."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from planner.solver.sweep import Row
from planner.specs.units import format_gib, format_seconds
from planner.views.console import stdout_console

Item = TypeVar("Item")

MIN_WIDTH = 200

HEADINGS = (
    "status",
    "step",
    "tokens/s",
    "MFU",
    "fullest stage",
    "mode",
    "TP",
    "PP",
    "DP",
    "ZeRO",
    "micro batch",
    "recomputed",
)


def track(done: Iterable[Item], total: int) -> Iterator[Item]:
    """Pass on what is done, with a bar on stderr while it is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("solving"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        for item in done:
            progress.advance(task)
            yield item


def print_rows(rows: Sequence[Row]) -> None:
    """One line for each answer."""
    console = stdout_console(MIN_WIDTH)
    table = Table(box=None, pad_edge=False)
    for key in rows[0].varied if rows else ():
        table.add_column(key, justify="right")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "status" else "right")
    table.add_column("in the way")
    for row in rows:
        table.add_row(*row.varied.values(), row.status, *_figures(row), ", ".join(row.rules))
    console.print(table)


def _figures(row: Row) -> list[str]:
    if row.step_s is None:
        return [""] * (len(HEADINGS) - 1)
    return [
        format_seconds(row.step_s),
        f"{row.tokens_per_s:,.0f}",
        f"{row.mfu:.1%}",
        format_gib(row.fullest_stage_bytes or 0),
        str(row.tensor_mode),
        *map(str, (row.tensor_parallel, row.pipeline_parallel, row.data_parallel, row.zero_stage, row.micro_batch)),
        str(row.recompute_layers),
    ]
