"""Rules of what the stack can execute."""

import numpy as np
from numpy.typing import NDArray

from planner.layouts.layout import OFFLOAD_TIERS, SHARDS_WEIGHTS, LayoutColumns
from planner.layouts.problem import Problem
from planner.rules.states import offloaded_fractions, state_rule

_HYBRID = "colossalai 0.5.0: booster/plugin/hybrid_parallel_plugin.py"


def _offloads(problem: Problem, columns: LayoutColumns) -> NDArray[np.bool_]:
    """Where the stack can offload that share of the optimizer states to that tier."""
    known = np.isin(columns.offload_tier, [OFFLOAD_TIERS.index(tier) for tier in problem.stack.offload_tiers])
    sharded = np.isin(columns.offload_optimizer, offloaded_fractions(problem, SHARDS_WEIGHTS))
    whole = np.isin(columns.offload_optimizer, offloaded_fractions(problem, 0))
    return known & np.where(columns.zero_stage >= SHARDS_WEIGHTS, sharded, whole)


RULES = (
    state_rule(
        id="STK001",
        about=("runtime",),
        title="tensor mode the stack cannot execute",
        field="tensor_mode",
        message="stack {stack} does not execute {name.tensor_mode} {tensor_mode}",
        detail="it executes {stack_modes}",
        hint="use {field.mode} with one of {stack_modes}",
        why="A plan is only worth having if it runs.",
        source="stack spec: tensor_modes",
        holds=lambda problem, columns: columns.mode_is(*problem.stack.tensor_modes),
    ),
    state_rule(
        id="STK002",
        about=("runtime",),
        title="schedule the stack cannot execute",
        field="schedule",
        message="stack {stack} does not execute schedule {schedule}",
        detail="it executes {stack_schedules}",
        hint="use one of {stack_schedules}",
        why="A plan is only worth having if it runs.",
        source="stack spec: schedules",
        holds=lambda problem, columns: np.logical_or.reduce(
            [columns.schedule_is(schedule) for schedule in problem.stack.schedules]
        ),
    ),
    state_rule(
        id="STK003",
        about=("runtime",),
        title="ZeRO stage the stack cannot execute",
        field="zero_stage",
        message="stack {stack} does not execute {name.zero_stage} {zero_stage}",
        detail="it executes {stack_zero}",
        hint="use one of {stack_zero}",
        why="A plan is only worth having if it runs.",
        source=f"{_HYBRID}:1122; stack spec: zero_stages",
        holds=lambda problem, columns: np.isin(columns.zero_stage, problem.stack.zero_stages),
    ),
    state_rule(
        id="STK004",
        about=("runtime",),
        title="sequence parallelism the stack cannot execute",
        field="sequence_parallel",
        message="stack {stack} does not execute sequence parallelism",
        detail="stack: {field.sequence_parallel} = false",
        hint="set {field.sequence_parallel} to false",
        why="A plan is only worth having if it runs.",
        source="stack spec: sequence_parallel",
        holds=lambda problem, columns: (columns.sequence_parallel == 0) | problem.stack.sequence_parallel,
    ),
    state_rule(
        id="STK005",
        about=("runtime",),
        title="offload the stack cannot execute",
        field="offload.tier",
        message="stack {stack} does not offload a share of {optimizer} to {tier}",
        detail="it offloads to {stack_tiers}, in shares of {stack_fractions}",
        hint="use tier {stack_tiers} and a share of {stack_fractions}",
        why="A plan is only worth having if it runs.",
        source="stack spec: offload_tiers, offload_optimizer_fractions",
        holds=_offloads,
    ),
    state_rule(
        id="STK006",
        about=("runtime",),
        title="offload of parameters the stack cannot execute",
        field="offload.parameters",
        message="stack {stack} does not offload a share of {parameters} of the weights under "
        "{name.zero_stage} {zero_stage}",
        detail="below stage 3 weights stay on the device; under it it offloads shares of {sharded_fractions}",
        hint="set offload.parameters to 0, or use {name.zero_stage} 3 and a share of {sharded_fractions}",
        why="A plan is only worth having if it runs.",
        source="colossalai 0.5.0: zero/low_level/low_level_optim.py:263-299 keeps weights on the device; "
        "stack spec: zero3_offload_fractions",
        holds=lambda problem, columns: (
            (columns.offload_parameters == 0)
            | (
                (columns.zero_stage >= SHARDS_WEIGHTS)
                & np.isin(columns.offload_parameters, offloaded_fractions(problem, SHARDS_WEIGHTS))
            )
        ),
    ),
)
