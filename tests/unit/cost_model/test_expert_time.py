"""Time of experts by hand: 5e11 FLOP/s and 5e8 B/s; 16 tokens of a micro batch and of experts that they pass."""

from typing import Any

import pytest

from planner.cost_model.compute import layer_kernels, layer_seconds
from planner.cost_model.expert_time import (
    dispatch_seconds,
    expert_kernels,
    expert_products,
    expert_weight_gradient_seconds,
)
from planner.specs.units import Seconds
from tests.helpers import expert_problem, problem, stages, tiny_mixtral

FAST: dict[str, Any] = {"hardware": {"memory_bandwidth_bytes_per_s": 1e15}}
"""Memory so fast that products take as long as their FLOP."""
FORWARD = 16 * 2 * 384 / 5e11


def test_expert_products_by_hand() -> None:
    passes = expert_products(expert_problem(**FAST), stages())
    assert passes.forward.tolist() == pytest.approx([FORWARD])
    assert passes.backward.tolist() == pytest.approx([2 * FORWARD])


def test_expert_products_of_the_fullest_rank() -> None:
    row = stages(data_parallel=2, expert_parallel=2)
    fuller = expert_problem(model=tiny_mixtral(experts={"fullest": 1.5}), **FAST)
    assert expert_products(fuller, row).forward.tolist() == pytest.approx([1.5 * FORWARD])
    assert expert_products(expert_problem(**FAST), row).forward.tolist() == pytest.approx([FORWARD])


def test_expert_products_move_the_weights_of_every_expert() -> None:
    # 16 tokens over 4 experts: (4 * 16 + 16 * 16 + 4 * 16) and (4 * 8 + 8 * 16 + 4 * 16) elements of each.
    moved = 4 * 2 * (4 * 16 + 16 * 16 + 4 * 16 + 4 * 8 + 8 * 16 + 4 * 16) / 5e8
    assert expert_products(expert_problem(), stages()).forward.tolist() == pytest.approx([moved])


def test_expert_products_of_every_sender_move_them_again() -> None:
    row = stages(data_parallel=2, expert_parallel=2)
    question = expert_problem(experts={"grouped": False, "by_sender": True})
    # Two experts on a rank, each with 4 tokens of either sender.
    moved = 4 * 2 * (4 * 16 + 16 * 16 + 4 * 16 + 4 * 8 + 8 * 16 + 4 * 16) / 5e8
    assert expert_products(question, row).forward.tolist() == pytest.approx([moved])


def test_dispatch_seconds_by_hand() -> None:
    question = expert_problem(
        experts={"dispatch_elements": (6.0, 7.0), "syncs": 2.0, "sync_s": Seconds(1e-6)},
        stack={"parts": {"gated_elements": (5.0, 8.0)}},
    )
    passes = dispatch_seconds(question, stages())
    assert passes.forward.tolist() == pytest.approx([16 * 2 * (6 * 16 + 5 * 8) / 5e8 + 2e-6])
    assert passes.backward.tolist() == pytest.approx([16 * 2 * (7 * 16 + 8 * 8) / 5e8])


def test_expert_products_and_dispatch_are_part_of_a_layer() -> None:
    question, row = expert_problem(), stages()
    fewer = expert_problem(model=tiny_mixtral(experts={"top_k": 1}))
    own, without = (
        expert_products(asked, row).forward + dispatch_seconds(asked, row).forward for asked in (question, fewer)
    )
    longer = layer_seconds(question, row).forward - layer_seconds(fewer, row).forward
    assert longer.tolist() == pytest.approx((own - without).tolist())
    assert longer[0] > 0


def test_expert_kernels_by_hand() -> None:
    question = expert_problem(experts={"kernels": 20.0, "expert_kernels": 3.0})
    assert expert_kernels(question, stages()).tolist() == [20 + 2 + 3 * 4]
    looped = expert_problem(experts={"kernels": 20.0, "expert_kernels": 3.0, "grouped": False})
    assert expert_kernels(looped, stages(data_parallel=2, expert_parallel=2)).tolist() == [20 + (3 + 2) * 2]
    assert layer_kernels(question, stages())[0] > 34


def test_expert_weight_gradient_seconds_are_half_of_backward_where_products_take_as_long() -> None:
    columns, asked = stages(), expert_problem()
    products = expert_products(asked, columns)
    assert expert_weight_gradient_seconds(asked, columns).tolist() == pytest.approx((products.backward / 2).tolist())
    assert expert_weight_gradient_seconds(problem(), columns).tolist() == [0.0]
