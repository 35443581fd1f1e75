"""Pinned lists of recomputed layers that no layout of a model keeps beside the other pins."""

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.layouts.contradictions import check_listed_recompute
from tests.helpers import tiny_model

FIELD = "recompute_layers_per_stage"


def refused(pins: dict[str, str], forbids: dict[str, tuple[str, ...]] | None = None) -> tuple[str, str, str]:
    """Message, place and hint of the refusal for a model of four layers."""
    with pytest.raises(PlanError) as raised:
        check_listed_recompute(pins, forbids or {}, tiny_model())
    assert raised.value.exit_code == ExitCode.USAGE
    (diagnostic,) = raised.value.diagnostics
    return diagnostic.message, diagnostic.location, diagnostic.hint


@pytest.mark.parametrize(
    ("recomputed", "needed", "hint"),
    [
        ("3,2", 5, "use numbers with a sum of at most 4"),
        ("0,4", 5, "use numbers with a sum of at most 3"),
        ("5", 5, "use numbers with a sum of at most 4"),
        ("0,0,0,0,0", 5, "use at most 4 numbers"),
    ],
)
def test_a_list_for_more_layers_than_the_model_has(recomputed: str, needed: int, hint: str) -> None:
    message = f"stages that recompute {recomputed} layers need {needed} in all, at least one each, and tiny has 4"
    assert refused({FIELD: recomputed}) == (message, "--pin", hint)


def test_a_list_for_another_number_of_stages_than_is_pinned() -> None:
    assert refused({FIELD: "1,2", "pipeline_parallel": "4"}) == (
        "recompute_layers_per_stage=1,2 is for 2 stages, and pipeline_parallel is pinned to 4",
        "--pin",
        "list 4 numbers, or use `--pin pipeline_parallel=2`",
    )
    assert refused({FIELD: "1", "layers_per_stage": "1,2,1"}) == (
        "recompute_layers_per_stage=1 is for 1 stage, and layers_per_stage lists 3",
        "--pin",
        "list 3 numbers, or use `--pin layers_per_stage=even`",
    )


@pytest.mark.parametrize(("layers", "own", "most"), [("even", 2, "2,2"), ("2,2", 2, "2,2"), ("1,3", 1, "1,3")])
def test_a_stage_that_would_recompute_more_layers_than_are_pinned(layers: str, own: int, most: str) -> None:
    message, _, hint = refused({FIELD: "3,0", "layers_per_stage": layers})
    assert message == (
        f"stage 0 of recompute_layers_per_stage=3,0 recomputes 3 layers, and layers_per_stage={layers} gives it {own} "
        "of the 4 of tiny"
    )
    assert hint == f"use at most {most}, or leave out `--pin layers_per_stage={layers}`"


def test_a_list_beside_a_forbidden_word() -> None:
    assert refused({FIELD: "1,2"}, {FIELD: ("all",)}) == (
        "recompute_layers_per_stage is pinned to 1,2, so that no word of it can be forbidden",
        "--forbid",
        "leave out `--forbid recompute_layers_per_stage=all`",
    )


@pytest.mark.parametrize(
    "pins",
    [
        {},
        {FIELD: "some", "pipeline_parallel": "4"},
        {FIELD: "1,2"},
        {FIELD: "2,2"},
        {FIELD: "0,0", "pipeline_parallel": "2"},
        {FIELD: "1,3", "layers_per_stage": "1,3"},
        {FIELD: "0,0,0", "layers_per_stage": "even"},
        {FIELD: "1,2", "layers_per_stage": "3,3"},
    ],
)
def test_what_some_layout_may_keep_or_the_search_explains_is_let_through(pins: dict[str, str]) -> None:
    check_listed_recompute(pins, {"zero_stage": ("1",)}, tiny_model())
