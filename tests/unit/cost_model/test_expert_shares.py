"""Experts on ranks, by hand: 4 layers of 4 experts of 384 parameters; micro batches of 8 tokens, each to 2 experts."""

from typing import Any

import pytest

from planner.cost_model.expert_shares import (
    expert_mesh,
    expert_parameters,
    routed_kept_bytes,
    routed_working_bytes,
    sent_tokens,
)
from planner.cost_model.parameters import active_parameters, model_parameters, stage_parameters, updated_parameters
from planner.cost_model.states import state_bytes
from planner.specs import StackSpec
from planner.specs.files import load_spec
from tests.helpers import changed, expert_problem, stages, tiny_llama, tiny_mixtral

WHOLE = {"by_tensor": False}
EXPERTS = 4 * 4 * 384


def mesh(experts: dict[str, Any] | None = None, **degrees: int) -> list[int]:
    one = expert_mesh(expert_problem(experts=experts), stages(**degrees).layouts)
    return [int(column[0]) for column in one]


def test_expert_mesh_is_inside_data_parallelism() -> None:
    # Group, its stride, copies, their stride, parts of an expert.
    assert mesh(data_parallel=4, expert_parallel=2) == [2, 1, 2, 2, 1]
    assert mesh(data_parallel=4, expert_parallel=2, tensor_parallel=2) == [2, 2, 2, 4, 2]
    assert mesh(data_parallel=4, expert_parallel=2, pipeline_parallel=2) == [2, 1, 2, 4, 1]


def test_expert_mesh_of_whole_experts_takes_tensor_parallel_ranks_too() -> None:
    assert mesh(WHOLE, data_parallel=4, expert_parallel=4, tensor_parallel=2) == [4, 1, 2, 4, 1]
    megatron = expert_mesh(
        changed(expert_problem(), stack=load_spec("megatron", StackSpec)),
        stages(data_parallel=4, expert_parallel=4, tensor_parallel=2, pipeline_parallel=2).layouts,
    )
    assert [int(column[0]) for column in megatron] == [4, 1, 2, 4, 1]


@pytest.mark.parametrize(
    ("degrees", "share"),
    [
        ({}, 1),
        ({"data_parallel": 4, "expert_parallel": 4}, 4),
        ({"data_parallel": 2, "expert_parallel": 2, "tensor_parallel": 2}, 4),
    ],
)
def test_expert_parameters_by_hand(degrees: dict[str, int], share: int) -> None:
    question, row = expert_problem(), stages(**degrees)
    assert expert_parameters(question, row).tolist() == [EXPERTS / share]
    held = stage_parameters(question, row)
    assert held["experts"].tolist() == [EXPERTS / share]
    if not degrees:
        assert sum(float(column[0]) for column in held.values()) == sum(model_parameters(question.model).values())


def test_blocks_without_experts_are_on_the_first_stage() -> None:
    model = tiny_mixtral(experts={"first_dense_layers": 1})
    question, row = expert_problem(model=model), stages(pipeline_parallel=2)
    assert expert_parameters(question, row).tolist() == [4 * 384, 2 * 4 * 384]
    held = stage_parameters(question, row)
    # A feed-forward part of 3 * 16 * 32 in the place of a router of 16 * 4.
    assert (held["layers"][0] - held["layers"][1]).tolist() == 3 * 16 * 32 - 16 * 4
    assert sum(float(column.sum()) for column in held.values()) == sum(model_parameters(model).values())


def test_states_of_experts_are_divided_by_the_ranks_that_hold_copies() -> None:
    question = expert_problem()
    row = stages(data_parallel=4, expert_parallel=2, zero_stage=1)
    dense = sum(model_parameters(question.model).values()) - EXPERTS
    assert updated_parameters(question, row).tolist() == [dense / 4 + EXPERTS / 2 / 2]
    states = state_bytes(question, row)
    assert states["weights"].tolist() == [2 * (dense + EXPERTS / 2)]
    assert states["optimizer_moments"].tolist() == [8 * (dense / 4 + EXPERTS / 4)]


def test_the_experts_that_a_token_does_not_pass_are_not_active() -> None:
    whole = sum(model_parameters(tiny_mixtral()).values())
    assert active_parameters(tiny_mixtral()) == whole - 4 * 2 * 384
    assert active_parameters(tiny_llama()) == sum(model_parameters(tiny_llama()).values())


def test_sent_tokens_are_counted_once_for_each_expert() -> None:
    assert sent_tokens(expert_problem(), stages(data_parallel=2, expert_parallel=2)).tolist() == [16.0]
    assert sent_tokens(expert_problem(), stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [16.0]
    sliced = stages(tensor_parallel=2, sequence_parallel=True)
    assert sent_tokens(expert_problem(experts=WHOLE), sliced).tolist() == [8.0]


def test_routed_kept_bytes_by_hand() -> None:
    # 16 tokens keep two hidden states of 16 and four inner ones of 8, two bytes each.
    row = stages(data_parallel=2, expert_parallel=2)
    assert routed_kept_bytes(expert_problem(), row, 3).tolist() == [3 * 16 * 2 * (2 * 16 + 4 * 8)]
    fuller = expert_problem(model=tiny_mixtral(experts={"fullest": 1.25}))
    assert routed_kept_bytes(fuller, row, 3).tolist() == [1.25 * 3 * 16 * 2 * (2 * 16 + 4 * 8)]
    divided = stages(tensor_parallel=2)
    assert routed_kept_bytes(expert_problem(), divided, 1).tolist() == [16 * 2 * (2 * 16 + 4 * 8 / 2)]


def test_routed_working_bytes_by_hand() -> None:
    assert routed_working_bytes(expert_problem(), stages()).tolist() == [16 * 2 * (2 * 16 + 4 * 8)]
