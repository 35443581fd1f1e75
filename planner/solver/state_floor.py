"""What the training states take at least, and which device counts that excludes."""

import math

from planner.cost_model.memory import state_bytes, step_gradient_bytes, usable_bytes
from planner.cost_model.terms import total
from planner.layouts.layout import SHARDS_WEIGHTS, Layout, Offload
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns, stages_of_layout

ROUNDING = 1e-9
"""Relative error that the sums of the bound are granted."""
_KINDS = (0, 1, SHARDS_WEIGHTS)
"""ZeRO stages that differ in what one device alone would hold."""


def state_floor_bytes(problem: Problem) -> float:
    """Bytes of training states that no layout avoids, over all its devices together.

    One device that holds the whole model, without activations, buckets and buffers, in the cheapest of
    the optimizer steps without ZeRO and with each kind of it. Every layout holds at least this in its optimizer phase:
    copies, replicated parameters and padding for tensor parallelism only add to it, and ZeRO divides
    what data parallelism copied.
    """
    asked = (*problem.stack.zero_stages, int(problem.pins.get("zero_stage", 0)))
    return min(
        float(total(state_bytes(problem, stages))[0] + step_gradient_bytes(problem, stages)[0])
        for stages in (_whole_model(problem, zero_stage) for zero_stage in _KINDS if zero_stage in {0, *asked})
    )


def _whole_model(problem: Problem, zero_stage: int) -> StageColumns:
    """A single device with all layers and as much of the optimizer offloaded as the problem allows."""
    in_pieces = zero_stage >= SHARDS_WEIGHTS
    shares = problem.stack.zero3_offload_fractions if in_pieces else problem.stack.offload_optimizer_fractions
    share = max((*shares, float(problem.pins.get("offload.optimizer", 0)))) if problem.allow_offload != "none" else 0.0
    weights = share if in_pieces else 0.0
    layout = Layout(
        zero_stage=zero_stage,
        layers_per_stage=(problem.model.num_layers,),
        recompute_layers_per_stage=(0,),
        offload=Offload(optimizer=share, parameters=weights, tier=problem.allow_offload if share else "none"),
        precision=problem.precision,
    )
    return stages_of_layout(layout)


def most_usable_bytes(problem: Problem) -> float:
    """What a device offers at most: with the reserve of a layout that has no communicators."""
    return float(usable_bytes(problem, _whole_model(problem, zero_stage=0))[0])


def excluded_by_bound(needed: float, usable: float, most: int) -> int:
    """Up to which count the devices together have less memory than the states need."""
    if usable <= 0:
        return most
    return min(most, max(0, math.ceil(needed * (1 - ROUNDING) / usable) - 1))
