"""Runs: all that are there, and what one of them has done."""

import datetime
from collections.abc import Sequence

from planner.launch.runs import RunSummary
from planner.specs.units import format_rate
from planner.views.content import Table


def runs_table(found: Sequence[RunSummary]) -> Table:
    """A row a run."""
    headings = ("run", "plan", "started (UTC)", "state", "step", "loss", "speed", "newest checkpoint")
    return Table(headings, [_row(one) for one in found], left=(0, 1, 2, 3, 7))


def _row(one: RunSummary) -> tuple[str, ...]:
    return (
        str(one.folder),
        one.plan,
        "" if one.started_s is None else when(one.started_s),
        one.state,
        f"{one.step:,}" + (f" of {one.steps:,}" if one.steps else ""),
        "" if one.loss is None else f"{one.loss:.4f}",
        "" if one.tokens_per_s is None else format_rate(one.tokens_per_s, "tokens/s"),
        "" if one.checkpoint is None else one.checkpoint.name,
    )


def when(time_s: float) -> str:
    """A Unix time as people read it, in UTC."""
    return f"{datetime.datetime.fromtimestamp(time_s, tz=datetime.UTC):%F %H:%M}"
