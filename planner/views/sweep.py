"""A sweep for people: one row for each answer."""

from collections.abc import Sequence

from planner.solver.sweep import Row
from planner.specs.units import format_gib, format_seconds
from planner.views.content import Table

HEADINGS = ("status", "step", "tokens/s", "MFU", "fullest stage")
LAYOUT_HEADINGS = ("mode", "TP", "PP", "DP", "ZeRO", "micro batch", "recomputed")


def rows_table(rows: Sequence[Row]) -> Table:
    """One line for each answer."""
    varied = list(rows[0].varied) if rows else []
    lines = [(*row.varied.values(), row.status, *_figures(row), ", ".join(row.rules)) for row in rows]
    return Table((*varied, *HEADINGS, *LAYOUT_HEADINGS, "in the way"), lines, left=(len(varied), -1), keys=len(varied))


def _figures(row: Row) -> list[str]:
    if row.step_s is None:
        return [""] * (len(HEADINGS) + len(LAYOUT_HEADINGS) - 1)
    return [
        format_seconds(row.step_s),
        f"{row.tokens_per_s:,.0f}",
        f"{row.mfu:.1%}",
        format_gib(row.fullest_stage_bytes or 0),
        str(row.tensor_mode),
        *map(str, (row.tensor_parallel, row.pipeline_parallel, row.data_parallel, row.zero_stage, row.micro_batch)),
        str(row.recompute_layers),
    ]
