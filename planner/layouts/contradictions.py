"""Pinned lists of recomputed layers that the model or other pins rule out, whatever is searched."""

from collections.abc import Mapping, Sequence

from planner.diagnostics import PlanError, usage_error
from planner.layouts.layout import RECOMPUTE
from planner.layouts.pins import (
    EVEN,
    LAYERS,
    layers_to_recompute,
    listed,
    listed_recompute,
    listed_stages,
    pinned_layers,
)
from planner.specs import ModelSpec

OPTION = "--pin"


def check_listed_recompute(pins: Mapping[str, str], forbids: Mapping[str, Sequence[str]], model: ModelSpec) -> None:
    """Refuse a pinned list that a model is too short for, or that does not go with the other pins.

    Raises:
        PlanError: it is, or it does not.
    """
    recomputed = listed_recompute(pins)
    if recomputed is None:
        return
    if forbidden := forbids.get(RECOMPUTE):
        raise usage_error(
            f"{RECOMPUTE} is pinned to {listed(recomputed)}, so that no word of it can be forbidden",
            location="--forbid",
            hint=f"leave out `--forbid {RECOMPUTE}={forbidden[0]}`",
        )
    _check_length(recomputed, pins)
    if (needed := layers_to_recompute(recomputed)) > model.num_layers:
        left = model.num_layers - recomputed.count(0)
        raise usage_error(
            f"stages that recompute {listed(recomputed)} layers need {needed} in all, at least one each, and "
            f"{model.name} has {model.num_layers}",
            location=OPTION,
            hint=f"use numbers with a sum of at most {left}"
            if left >= 0
            else f"use at most {model.num_layers} numbers",
        )
    if LAYERS in pins:
        _check_layers(recomputed, pins[LAYERS], model)


def _check_length(recomputed: tuple[int, ...], pins: Mapping[str, str]) -> None:
    stages, asked = len(recomputed), int(pins.get("pipeline_parallel", len(recomputed)))
    if stages != asked:
        raise _for_stages(recomputed, f"pipeline_parallel is pinned to {asked}", asked, f"pipeline_parallel={stages}")
    if stages != (asked := listed_stages(pins.get(LAYERS, EVEN)) or stages):
        raise _for_stages(recomputed, f"{LAYERS} lists {asked}", asked, f"{LAYERS}={EVEN}")


def _for_stages(recomputed: tuple[int, ...], said: str, asked: int, other: str) -> PlanError:
    stages = len(recomputed)
    return usage_error(
        f"{RECOMPUTE}={listed(recomputed)} is for {stages} stage{'s' * (stages > 1)}, and {said}",
        location=OPTION,
        hint=f"list {asked} number{'s' * (asked > 1)}, or use `{OPTION} {other}`",
    )


def _check_layers(recomputed: tuple[int, ...], pinned: str, model: ModelSpec) -> None:
    layers = pinned_layers(pinned, model.num_layers, len(recomputed))
    for stage, (own, count) in enumerate(zip(layers or (), recomputed, strict=False)):
        if count > own:
            raise usage_error(
                f"stage {stage} of {RECOMPUTE}={listed(recomputed)} recomputes {count} layers, and {LAYERS}={pinned} "
                f"gives it {own} of the {model.num_layers} of {model.name}",
                location=OPTION,
                hint=f"use at most {listed(layers or ())}, or leave out `{OPTION} {LAYERS}={pinned}`",
            )
