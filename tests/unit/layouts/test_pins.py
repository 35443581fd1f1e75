"""What ``--pin`` and ``--forbid`` take, and which layouts match it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.layouts.layout import LISTED_RECOMPUTE, Offload, columns_of
from planner.layouts.pins import (
    PINNABLE,
    keeps,
    layers_match,
    listed_recompute,
    matches,
    may_match,
    parse_pin,
    pinned_devices,
    pinned_layers,
)
from tests.helpers import layout

RECOMPUTED_HINT = "use one of none, all, some, or a list such as 12,12,6,0"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tensor_parallel=4", ("tensor_parallel", "4")),
        (" tensor_parallel = 4 ", ("tensor_parallel", "4")),
        ("tensor_mode=2.5d", ("tensor_mode", "2.5d")),
        ("schedule=1f1b", ("schedule", "1f1b")),
        ("zero_stage=0", ("zero_stage", "0")),
        ("sequence_parallel=true", ("sequence_parallel", "true")),
        ("recompute_layers_per_stage=all", ("recompute_layers_per_stage", "all")),
        ("offload.tier=cpu", ("offload.tier", "cpu")),
        ("offload.optimizer=0.5", ("offload.optimizer", "0.5")),
        ("layers_per_stage=even", ("layers_per_stage", "even")),
        ("layers_per_stage=1,3", ("layers_per_stage", "1,3")),
        ("layers_per_stage=1, 3", ("layers_per_stage", "1, 3")),
        ("layers_per_stage=[1, 3]", ("layers_per_stage", "1, 3")),
        ("recompute_layers_per_stage=1,0", ("recompute_layers_per_stage", "1,0")),
        ("recompute_layers_per_stage=[ 1, 0 ]", ("recompute_layers_per_stage", "1, 0")),
        ("recompute_layers_per_stage=12", ("recompute_layers_per_stage", "12")),
    ],
)
def test_a_pin_is_split(text: str, expected: tuple[str, str]) -> None:
    assert parse_pin(text, "--pin") == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("tensor_parallel", "`tensor_parallel` is not field=value", "write it like `--pin tensor_parallel=4`"),
        ("tensor_parallel=", "`tensor_parallel=` is not field=value", "write it like `--pin tensor_parallel=4`"),
        ("", "`` is not field=value", "write it like `--pin tensor_parallel=4`"),
        ("tensor_paralel=4", "a layout has no field `tensor_paralel` to pin", "did you mean `tensor_parallel`?"),
        ("=4", "a layout has no field `` to pin", f"use one of {', '.join(PINNABLE)}"),
        ("tensor_parallel=0", "`0` is no value of tensor_parallel", "use a whole number from 1 to 999999999"),
        ("tensor_parallel=-1", "`-1` is no value of tensor_parallel", "use a whole number from 1 to 999999999"),
        ("micro_batch=1.5", "`1.5` is no value of micro_batch", "use a whole number from 1 to 999999999"),
        ("tensor_mode=4d", "`4d` is no value of tensor_mode", "use one of none, 1d, 2d, 2.5d, 3d"),
        ("zero_stage=4", "`4` is no value of zero_stage", "use one of 0, 1, 2, 3"),
        ("sequence_parallel=yes", "`yes` is no value of sequence_parallel", "use one of false, true"),
        ("offload.optimizer=2", "`2` is no value of offload.optimizer", "use a share from 0 to 1"),
        ("offload.optimizer=nan", "`nan` is no value of offload.optimizer", "use a share from 0 to 1"),
        ("offload.optimizer=x", "`x` is no value of offload.optimizer", "use a share from 0 to 1"),
        ("recompute_layers_per_stage=half", "`half` is no value of recompute_layers_per_stage", RECOMPUTED_HINT),
        ("recompute_layers_per_stage=1,-2", "`1,-2` is no value of recompute_layers_per_stage", RECOMPUTED_HINT),
        ("recompute_layers_per_stage=1,all", "`1,all` is no value of recompute_layers_per_stage", RECOMPUTED_HINT),
        ("recompute_layers_per_stage=[1,2", "`[1,2` is no value of recompute_layers_per_stage", RECOMPUTED_HINT),
        ("recompute_layers_per_stage=[]", "`` is no value of recompute_layers_per_stage", RECOMPUTED_HINT),
        ("layers_per_stage=0,4", "`0,4` is no value of layers_per_stage", "use `even` or a list such as 24,24,24,24"),
        ("layers_per_stage=1,,3", "`1,,3` is no value of layers_per_stage", "use `even` or a list such as 24,24,24,24"),
    ],
)
def test_a_bad_pin_says_what_to_type(text: str, message: str, hint: str) -> None:
    with pytest.raises(PlanError) as raised:
        parse_pin(text, "--pin")
    (diagnostic,) = raised.value.diagnostics
    assert raised.value.exit_code == ExitCode.USAGE
    assert (diagnostic.message, diagnostic.location, diagnostic.hint) == (message, "--pin", hint)


def test_an_absurdly_long_number_is_bad_input() -> None:
    with pytest.raises(PlanError):
        parse_pin("tensor_parallel=" + "9" * 5000, "--pin")


@pytest.mark.parametrize(
    ("value", "num_stages", "expected"),
    [
        ("even", 2, (2, 2)),
        ("even", 3, None),
        ("1,3", 2, (1, 3)),
        ("1, 3", 2, (1, 3)),
        ("1,3", 1, None),
        ("1,2", 2, None),
    ],
)
def test_pinned_layers(value: str, num_stages: int, expected: tuple[int, ...] | None) -> None:
    assert pinned_layers(value, num_layers=4, num_stages=num_stages) == expected


PINNED = {
    "tensor_mode": "1d",
    "tensor_parallel": "2",
    "tensor_depth": "1",
    "pipeline_parallel": "2",
    "sequence_parallel_degree": "1",
    "expert_parallel": "1",
    "data_parallel": "1",
    "micro_batch": "1",
    "num_microbatches": "8",
    "num_model_chunks": "1",
    "schedule": "1f1b",
    "zero_stage": "1",
    "sequence_parallel": "true",
    "recompute_layers_per_stage": "all",
    "recompute_pointwise": "false",
    "offload.tier": "cpu",
    "offload.optimizer": "1.0",
    "offload.parameters": "0.5",
    "layers_per_stage": "2,2",
}
OTHER = {
    "tensor_mode": "2d",
    "schedule": "none",
    "zero_stage": "0",
    "sequence_parallel": "false",
    "recompute_layers_per_stage": "none",
    "recompute_pointwise": "true",
    "offload.tier": "none",
    "offload.optimizer": "0.5",
    "offload.parameters": "1.0",
}


def test_every_field_has_a_pinned_value_here() -> None:
    assert sorted(PINNED) == sorted(PINNABLE)


@pytest.mark.parametrize("field", PINNABLE)
def test_pins_match_columns(field: str) -> None:
    columns = columns_of(
        layout(
            tensor_parallel=2,
            pipeline_parallel=2,
            zero_stage=1,
            sequence_parallel=True,
            recompute_layers_per_stage=(2, 2),
            offload=Offload(optimizer=1.0, parameters=0.5, tier="cpu"),
        )
    )
    assert matches(columns, field, PINNED[field]).all()
    if field != "layers_per_stage":
        assert not matches(columns, field, OTHER.get(field, "7")).any()


@pytest.mark.parametrize(("value", "expected"), [("even", False), ("1,3", True), ("3,1", False), ("1,2,1", False)])
def test_layers_match(value: str, expected: bool) -> None:
    assert layers_match(layout(pipeline_parallel=2, layers_per_stage=(1, 3)), value) is expected


@pytest.mark.parametrize("field", [field for field in PINNABLE if field != "layers_per_stage"])
def test_what_matches_parses(field: str) -> None:
    values: tuple[Any, ...] = (PINNED[field], OTHER.get(field, "7"))
    assert [parse_pin(f"{field}={value}", "--forbid") for value in values] == [(field, value) for value in values]


@pytest.mark.parametrize(
    ("pinned", "expected"),
    [
        ({}, 1),
        ({"tensor_parallel": "4", "data_parallel": "3", "micro_batch": "5"}, 12),
        ({"tensor_parallel": "4", "layers_per_stage": "1,2,1"}, 12),
        ({"pipeline_parallel": "2", "layers_per_stage": "even"}, 2),
        ({"tensor_parallel": "4", "recompute_layers_per_stage": "1,0,2"}, 12),
        ({"tensor_parallel": "4", "recompute_layers_per_stage": "some"}, 4),
        ({"layers_per_stage": "2,2", "recompute_layers_per_stage": "1,0"}, 2),
    ],
)
def test_pinned_degrees_and_stages_divide_the_number_of_devices(pinned: dict[str, str], expected: int) -> None:
    assert pinned_devices(pinned) == expected


@pytest.mark.parametrize(
    ("value", "columns_may", "is_kept"),
    [
        ("1,2", True, True),
        ("2,1", True, False),
        ("1,2,0", False, False),
        ("0,0", False, False),
        ("some", True, True),
        ("all", False, False),
    ],
)
def test_a_pinned_list_is_kept_by_the_layout_with_these_counts(value: str, columns_may: bool, is_kept: bool) -> None:
    one = layout(pipeline_parallel=2, layers_per_stage=(2, 4), recompute_layers_per_stage=(1, 2))
    assert matches(columns_of(one), "recompute_layers_per_stage", value).tolist() == [columns_may]
    assert keeps(one, "recompute_layers_per_stage", value) is is_kept


@pytest.mark.parametrize(("value", "expected"), [("1, 2", (1, 2)), ("7", (7,)), ("some", None), (None, None)])
def test_a_pinned_list_is_read(value: str | None, expected: tuple[int, ...] | None) -> None:
    assert listed_recompute({} if value is None else {"recompute_layers_per_stage": value}) == expected


def test_what_recomputes_as_listed_may_have_every_word() -> None:
    one = columns_of(layout(pipeline_parallel=2, recompute_layers_per_stage=(1, 1)))
    listed = replace(one, recompute=np.array([LISTED_RECOMPUTE]))
    assert may_match(listed, "recompute_layers_per_stage", "all").all()
    assert not matches(listed, "recompute_layers_per_stage", "all").any()
