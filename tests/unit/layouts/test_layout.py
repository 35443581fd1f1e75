"""One declaration of each field: its column, its words and its neutral value follow from it; answers kept once."""

from dataclasses import fields, replace
from typing import Any

import msgspec
import numpy as np
import pytest

from planner.layouts.layout import FIELDS, RECOMPUTE, Layout, LayoutColumns, Offload, columns_of, once_per_table
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns, once_per_places, once_per_stages, stages_of_layout
from planner.specs.files import to_builtins
from tests.helpers import layout, problem


def whole(**overrides: Any) -> Layout:
    return Layout(layers_per_stage=(4,), recompute_layers_per_stage=(0,), precision="bf16", **overrides)


def test_columns_are_the_fields_of_a_layout() -> None:
    assert {field.name for field in fields(LayoutColumns)} == {field.column for field in FIELDS.values()}
    told = {name.partition(".")[0] for name in FIELDS} | {"layers_per_stage", "precision"}
    assert told == set(Layout.__struct_fields__)


@pytest.mark.parametrize(
    ("field", "words", "neutral"),
    [
        ("tensor_mode", ("none", "1d", "2d", "2.5d", "3d"), "none"),
        ("zero_stage", ("0", "1", "2", "3"), 0),
        ("sequence_parallel", ("false", "true"), False),
        ("tensor_parallel", (), 1),
        ("offload.optimizer", (), 0.0),
        (RECOMPUTE, ("none", "all", "some"), "none"),
    ],
)
def test_words_and_neutral_value_follow_from_the_declaration(
    field: str, words: tuple[str, ...], neutral: object
) -> None:
    assert (FIELDS[field].words, FIELDS[field].neutral) == (words, neutral)


def test_a_layout_says_only_what_differs_from_one_device() -> None:
    plain = whole()
    assert (plain.num_devices, plain.global_batch, plain.offload) == (1, 1, Offload())
    assert plain == LayoutColumns.of({}, 1).layout(0, (4,), (0,), "bf16")


def test_a_layout_is_written_with_all_its_fields() -> None:
    assert list(msgspec.to_builtins(whole())) == list(Layout.__struct_fields__)


def test_a_degree_that_divides_nothing_is_left_out_of_files() -> None:
    written = to_builtins(whole())
    left_out = [name for name in Layout.__struct_fields__ if name not in written]
    assert left_out == ["sequence_parallel_degree", "expert_parallel", "recompute_pointwise"]
    assert to_builtins(whole(sequence_parallel_degree=2))["sequence_parallel_degree"] == 2


def test_columns_give_the_layout_back() -> None:
    one = whole(
        tensor_mode="2.5d",
        tensor_parallel=8,
        tensor_depth=2,
        zero_stage=1,
        sequence_parallel=True,
        offload=Offload(optimizer=0.5, parameters=0.25, tier="cpu"),
    )
    columns = columns_of(one)
    assert columns.layout(0, one.layers_per_stage, one.recompute_layers_per_stage, "bf16") == one
    assert columns.zero_stage.dtype == np.int64
    assert columns.offload_optimizer.dtype == np.float64


def test_a_table_is_asked_once() -> None:
    asked = []

    @once_per_table
    def size(columns: LayoutColumns) -> int:
        asked.append(columns)
        return len(columns)

    one = columns_of(layout())
    two = one.take(np.array([0, 0]))
    assert [size(one), size(one), size(two), size(one)] == [1, 1, 2, 1]
    assert len(asked) == 2


def test_two_functions_do_not_take_each_others_answers() -> None:
    first, second = once_per_table(lambda columns: "first"), once_per_table(lambda columns: "second")
    one = columns_of(layout())
    assert [first(one), second(one), first(one)] == ["first", "second", "first"]


def test_stages_are_asked_again_for_another_problem_and_for_other_layers() -> None:
    @once_per_stages
    def layers(asked: Problem, stages: StageColumns) -> int:
        return asked.num_devices * int(stages.num_layers.sum())

    stages, four, two = stages_of_layout(layout()), problem(), problem(num_devices=2)
    more = stages.with_layers(stages.num_layers + 1)
    assert [layers(four, stages), layers(two, stages), layers(four, stages), layers(four, more)] == [16, 8, 16, 20]


def test_places_are_asked_once_whatever_their_layers_and_again_for_other_places() -> None:
    asked = []

    @once_per_places
    def places(question: Problem, stages: StageColumns) -> int:
        asked.append(stages)
        return question.num_devices * int(stages.stage.sum())

    stages, four = stages_of_layout(layout(pipeline_parallel=4)), problem()
    assert [places(four, stages), places(four, stages.with_layers(stages.num_layers + 1))] == [24, 24]
    assert len(asked) == 1
    assert places(problem(num_devices=2), stages) == 12
    assert places(four, replace(stages, stage=stages.stage + 1)) == 40
    assert places(four, stages.take(np.array([3]))) == 12
