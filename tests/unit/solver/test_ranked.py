"""Which layouts are variants of one choice, and that each choice is listed once, by its best layout."""

from typing import Any

import msgspec
import numpy as np
import pytest

from planner.layouts.layout import LayoutColumns, columns_of
from planner.plans.question import Question, build_problem
from planner.solver import solve
from planner.solver.ranked import choices
from tests.helpers import layout


def are_one_choice(first: dict[str, Any], second: dict[str, Any]) -> bool:
    both = [columns_of(layout(**fields)) for fields in (first, second)]
    names = LayoutColumns.__dataclass_fields__
    one, other = choices(LayoutColumns(**{n: np.concatenate([getattr(c, n) for c in both]) for n in names})).tolist()
    return bool(one == other)


GRID = {"tensor_mode": "2.5d", "tensor_parallel": 4}
CHUNKS = {"pipeline_parallel": 2, "schedule": "interleaved"}
THE_SAME = [
    ({"zero_stage": 0}, {"zero_stage": 2}),
    ({"tensor_mode": "2d", "tensor_parallel": 4}, GRID),
    ({**GRID, "tensor_parallel": 16, "tensor_depth": 4}, {**GRID, "tensor_parallel": 16, "tensor_depth": 16}),
    ({**CHUNKS, "num_model_chunks": 2}, {**CHUNKS, "num_model_chunks": 4}),
]
OTHERS = [
    ({"zero_stage": 2}, {"zero_stage": 3}),
    ({"data_parallel": 2, "zero_stage": 0}, {"data_parallel": 2, "zero_stage": 1}),
    ({**GRID, "tensor_parallel": 8, "tensor_depth": 2}, {"tensor_mode": "2d", "tensor_parallel": 8}),
    (CHUNKS, {"pipeline_parallel": 2, "schedule": "1f1b"}),
    ({"micro_batch": 1, "num_microbatches": 4}, {"micro_batch": 2, "num_microbatches": 2}),
]


@pytest.mark.parametrize(("first", "second"), THE_SAME)
def test_what_does_not_change_what_a_person_chooses_is_a_variant(first: Any, second: Any) -> None:
    assert are_one_choice(first, second)


@pytest.mark.parametrize(("first", "second"), OTHERS)
def test_what_a_person_chooses_is_another_choice(first: Any, second: Any) -> None:
    assert not are_one_choice(first, second)


@pytest.mark.parametrize("pins", [("data_parallel=1",), ("tensor_parallel=4",)])
def test_each_choice_is_listed_once_by_its_best_layout(pins: tuple[str, ...]) -> None:
    asked = build_problem(Question(model="gpt2-small", gpus=4, pin=pins, global_batch=16))
    answer = solve(asked, top=10_000)
    assert answer.plan is not None
    listed = [answer.plan.layout, *(other.layout for other in answer.runners_up)]
    told_apart = {
        msgspec.structs.replace(
            one,
            zero_stage=0 if one.data_parallel == 1 and one.zero_stage < 3 else one.zero_stage,
            tensor_mode="2d" if one.tensor_mode == "2.5d" and one.tensor_depth == 1 else one.tensor_mode,
            tensor_depth=1,
            num_model_chunks=1,
            layers_per_stage=(),
            recompute_layers_per_stage=(
                int(any(one.recompute_layers_per_stage)),
                int(one.recompute_layers_per_stage == one.layers_per_stage),
            ),
        )
        for one in listed
    }
    assert len(told_apart) == len(listed)
    assert solve(asked).plan == answer.plan
    assert sum(other.variants for other in answer.runners_up) + (answer.variants or 0) == answer.space.fit
    assert answer.space.fit > len(listed)
