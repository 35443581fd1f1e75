"""What weight gradients that are put off hold."""

import numpy as np

from planner.cost_model.deferred import deferred_bytes, output_gradient_bytes, routed_deferred_bytes
from tests.helpers import changed, expert_problem, problem, tiny_llama
from tests.unit.cost_model.test_zero_bubble import in_v


def test_deferred_bytes_by_hand() -> None:
    # Inputs 16 + 16 + 16 + 64 and output gradients 48 + 16 + 64 + 16, of 8 tokens in two bytes.
    assert deferred_bytes(problem(), in_v()).tolist() == [8 * 2 * (112 + 144)] * 2
    halved = deferred_bytes(problem(), in_v(tensor_parallel=2))
    assert halved.tolist() == [8 * 2 * (16 + 24 + 8 + 16 + 16 + 32 + 32 + 16)] * 2


def test_deferred_bytes_count_each_gathered_input_of_a_divided_sequence() -> None:
    apart = {"parts": {"fused_qkv": False, "fused_gate": False}}
    asked = changed(problem(stack=apart), model=tiny_llama())
    whole, sliced = (
        deferred_bytes(asked, in_v(tensor_parallel=2, sequence_parallel=slices)) for slices in (False, True)
    )
    # Queries, keys and values, and the two products into the feed-forward: three inputs more.
    assert (sliced - whole).tolist() == [8 * 2 * 3 * 16] * 2


def test_output_gradient_bytes_are_those_of_the_outputs() -> None:
    assert output_gradient_bytes(problem(), in_v()).tolist() == [8 * 2 * 144] * 2
    halved = output_gradient_bytes(problem(), in_v(tensor_parallel=2))
    assert halved.tolist() == [8 * 2 * (24 + 16 + 32 + 16)] * 2


def test_routed_deferred_bytes_by_hand() -> None:
    # Of each of 8 tokens and its 2 experts: input and output gradient 16 each, and what is 8 wide: two output
    # gradients and an input.
    columns = in_v()
    assert routed_deferred_bytes(expert_problem(), columns, np.array([2, 1])).tolist() == [
        2 * 16 * 2 * (32 + 24),
        16 * 2 * (32 + 24),
    ]
    assert routed_deferred_bytes(problem(), columns, np.array([2, 1])).tolist() == [0, 0]
