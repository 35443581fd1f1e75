"""Rules of the tensor modes that divide weights over a grid: 2D, 2.5D and 3D."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.layouts.degrees import GRID_MODES, divisors, edge_of, grid_batch_parts
from planner.layouts.layout import SCHEDULES, Layout, LayoutColumns, columns_of
from planner.layouts.problem import Problem
from planner.rules.rule import Rule, listed

_LEGACY = "colossalai 0.5.0: legacy/nn/layer"


def _is_grid(columns: LayoutColumns) -> NDArray[np.bool_]:
    return columns.mode_is(*GRID_MODES)


def _weight_share(columns: LayoutColumns) -> NDArray[np.int64]:
    """Parts into which a weight's dimension is divided at most: 3D divides its rows over two axes."""
    edge = edge_of(columns)
    return np.where(columns.mode_is("3d"), edge**2, edge)


def _batch_share(columns: LayoutColumns) -> NDArray[np.int64]:
    share = np.ones(len(columns), dtype=np.int64)
    for mode in GRID_MODES:
        parts = grid_batch_parts(mode, edge_of(columns), columns.tensor_depth)
        share = np.where(columns.mode_is(mode), parts, share)
    return share


def _values(problem: Problem, layout: Layout) -> dict[str, Any]:
    model, columns = problem.model, columns_of(layout)
    return {
        "model": model.name,
        "num_heads": model.num_heads,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "micro_batch": layout.micro_batch,
        "edge": int(edge_of(columns)[0]),
        "tensor_mode": layout.tensor_mode,
        "zero_stage": layout.zero_stage,
        "schedule": layout.schedule,
        "edges": listed([e for e in divisors(model.num_heads) if e > 1]),
        "share": int(_weight_share(columns)[0]),
        "batch_share": int(_batch_share(columns)[0]),
    }


def _division(rule_id: str, name: str, size_of: str) -> Rule:
    """A rule that a dimension of the weights divides over the grid."""
    return Rule(
        id=rule_id,
        about=("grid",),
        title=f"grid does not divide the {name}",
        field="tensor_parallel",
        message=f"{{{size_of}}} {name} do not split into the {{share}} parts of mode {{tensor_mode}}",
        detail=f"{size_of} = {{{size_of}}}, {{{size_of}}} % {{share}} != 0",
        hint=f"use a grid whose parts divide {{{size_of}}}, or {{field.mode}} 1d",
        values=_values,
        why="A weight is cut into equal parts along both dimensions; 3D cuts its rows by the square of the edge.",
        source=f"{_LEGACY}/parallel_2d/layers.py, parallel_2p5d/layers.py, parallel_3d/layers.py: divide()",
        holds=lambda problem, columns: getattr(problem.model, size_of) % _weight_share(columns) == 0,
    )


RULES = (
    Rule(
        id="TP021",
        about=("grid",),
        title="grid edge does not divide the attention heads",
        field="tensor_parallel",
        message="the {tensor_mode} grid edge {edge} does not divide the {num_heads} attention heads",
        detail="num_heads = {num_heads}, edge = {edge}",
        hint="use a grid edge of {edges}",
        values=_values,
        why="A rank of the grid works on whole heads.",
        source="colossalai 0.5.0: legacy layers hold qkv columns of whole heads per rank",
        holds=lambda problem, columns: problem.model.num_heads % edge_of(columns) == 0,
    ),
    _division("TP022", "hidden units", "hidden_size"),
    Rule(
        id="TP023",
        about=("grid", "grid-batch", "batch", "degrees"),
        title="grid does not divide the micro batch",
        field="micro_batch",
        message="micro batch {micro_batch} does not split into the {batch_share} shares of mode {tensor_mode}",
        detail="{field.micro_batch} = {micro_batch}, {micro_batch} % {batch_share} != 0",
        hint="use a micro batch that is a multiple of {batch_share}",
        values=_values,
        why="The grid modes split the batch as well as the weights.",
        source=f"{_LEGACY}/parallel_2d/_operation.py:886, parallel_3d/_operation.py:454",
        holds=lambda problem, columns: columns.micro_batch % _batch_share(columns) == 0,
    ),
    _division("TP024", "feed-forward units", "ffn_hidden_size"),
    Rule(
        id="TP025",
        title="ZeRO in a grid mode",
        about=("runtime",),
        field="zero_stage",
        message="mode {tensor_mode} does not run with {name.zero_stage} {zero_stage}",
        detail="{field.tensor_mode} = {tensor_mode}, {field.zero_stage} = {zero_stage}",
        hint="use {name.zero_stage} 0, or {field.mode} 1d",
        values=_values,
        why="Only the plugin of mode 1d divides optimizer states over data parallelism.",
        source="gptplan: the grid modes train outside of Colossal-AI's plugins, which do not know their layers",
        holds=lambda problem, columns: ~_is_grid(columns) | (columns.zero_stage == 0),
    ),
    Rule(
        id="TP026",
        title="schedule that a grid mode does not take",
        field="schedule",
        message="mode {tensor_mode} does not run schedule {schedule}",
        detail="{field.tensor_mode} = {tensor_mode}, {field.schedule} = {schedule}",
        hint="use schedule 1f1b, or {field.mode} 1d",
        values=_values,
        why="A rank of the grid modes holds one part of the model, not several in turn.",
        source="gptplan: the grid modes run on Colossal-AI's OneForwardOneBackwardSchedule",
        holds=lambda problem, columns: (
            ~_is_grid(columns) | np.isin(columns.schedule, [SCHEDULES.index("none"), SCHEDULES.index("1f1b")])
        ),
    ),
)
