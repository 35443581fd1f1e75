"""Communication of experts by hand: 1e9 B/s and 1 us in a node of four; 16 tokens of 32 bytes a micro batch."""

import pytest

from planner.cost_model.breakdown import step_breakdown
from planner.cost_model.expert_communication import (
    divided_expert_seconds,
    expert_collectives,
    expert_exchange_seconds,
    expert_gradient_seconds,
)
from planner.specs.units import Seconds
from tests.helpers import expert_problem, stages, tiny_mixtral

PAIR = stages(data_parallel=2, expert_parallel=2)
EXCHANGE_S = 16 * 32 / 2 / 1e9 + 1e-6
"""Half of the tokens' bytes leave a rank of two."""


def test_expert_exchange_seconds_by_hand() -> None:
    forward, backward = expert_exchange_seconds(expert_problem(), PAIR)
    assert backward.tolist() == pytest.approx([2 * EXCHANGE_S])
    assert forward.tolist() == pytest.approx([2 * EXCHANGE_S + 1e-6])
    alone, _ = expert_exchange_seconds(expert_problem(), stages(data_parallel=2))
    assert alone.tolist() == [0.0]


def test_expert_exchange_seconds_are_those_of_the_fullest_rank() -> None:
    fuller = expert_problem(model=tiny_mixtral(experts={"fullest": 1.5}))
    assert expert_exchange_seconds(fuller, PAIR)[1].tolist() == pytest.approx([2 * (1.5 * 16 * 32 / 2 / 1e9 + 1e-6)])
    started = expert_problem(hardware={"node_link": {"exchange_start_s": Seconds(1e-5)}})
    assert expert_exchange_seconds(started, PAIR)[1].tolist() == pytest.approx([2 * (EXCHANGE_S + 1e-5)])
    hidden = expert_problem(experts={"overlap": 0.5})
    assert expert_exchange_seconds(hidden, PAIR)[1].tolist() == pytest.approx([EXCHANGE_S])


def test_expert_exchange_seconds_add_up_counts_over_copies() -> None:
    row = stages(data_parallel=4, expert_parallel=2)
    plain, _ = expert_exchange_seconds(expert_problem(), row)
    counted, _ = expert_exchange_seconds(expert_problem(experts={"sums_counts": True}), row)
    # Two experts' counts of 8 bytes over two copies.
    assert (counted - plain).tolist() == pytest.approx([2 * (8 / 1e9 + 1e-6)])


def test_divided_expert_seconds_by_hand() -> None:
    row = stages(tensor_parallel=2)
    forward, backward = divided_expert_seconds(expert_problem(), row)
    # Four experts are reduced one by one, one product of each forward, one backward, of which half is hidden.
    assert forward.tolist() == pytest.approx([2 * (16 * 32 / 2 / 1e9 + 4e-6)])
    assert backward.tolist() == pytest.approx([16 * 32 / 2 / 1e9 + 4e-6])
    whole, _ = divided_expert_seconds(expert_problem(experts={"by_tensor": False}), row)
    assert whole.tolist() == [0.0]


def test_expert_gradient_seconds_by_hand() -> None:
    row = stages(data_parallel=4, expert_parallel=2, zero_stage=1)
    reduced, gathered = expert_gradient_seconds(expert_problem(), row)
    # 4 * 4 * 384 / 2 parameters of two bytes over two copies, a scatter and two gathers' worth.
    one = 4 * 4 * 384 / 2 * 2 / 2 / 1e9 + 1e-6
    assert reduced.tolist() == pytest.approx([3 * one])
    assert gathered.tolist() == [0.0]
    no_copies, _ = expert_gradient_seconds(expert_problem(), PAIR)
    assert no_copies.tolist() == [0.0]


def test_expert_collectives_are_a_term_of_the_step() -> None:
    once, again = expert_collectives(expert_problem(), PAIR)
    assert once.tolist() == pytest.approx([4 * EXCHANGE_S + 1e-6])
    assert again.tolist() == pytest.approx([2 * EXCHANGE_S + 1e-6])
    step = step_breakdown(expert_problem(num_devices=2), PAIR)
    assert step["expert_communication"] == pytest.approx(4 * float(once[0]) * 8)
