"""The slots of a V, and small orders by hand."""

import numpy as np
import pytest

from planner.layouts.compilation import is_compiled, may_recompute_pointwise
from planner.layouts.layout import columns_of
from planner.layouts.zero_bubble import CHUNKS, held_at_backward, most_held, node_order, slot_of, stage_of
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.helpers import changed, layout, problem


def written(num_stages: int, num_microbatches: int, *, recomputes: bool = False) -> list[str]:
    """Orders as words: small letters are the second chunk's."""
    return [
        " ".join((node.kind.lower() if node.chunk else node.kind) + str(node.microbatch) for node in order)
        for order in node_order(num_stages, num_microbatches, recomputes=recomputes)
    ]


def test_slots_go_down_the_stages_and_up_again() -> None:
    assert [stage_of(slot, 3) for slot in range(6)] == [0, 1, 2, 2, 1, 0]
    assert [[slot_of(stage, chunk, 3) for chunk in range(CHUNKS)] for stage in range(3)] == [[0, 5], [1, 4], [2, 3]]


def test_a_stage_holds_as_much_as_the_first_of_1f1b() -> None:
    assert most_held(4) == 8


def test_node_order_of_one_micro_batch_waits_for_it_alone() -> None:
    assert written(2, 1) == ["F0 f0 b0 w0 B0 W0", "F0 f0 b0 B0 w0 W0"]


def test_node_order_of_two_stages_by_hand() -> None:
    # The first stage enters a second micro batch while the first one is on its way, and puts weight gradients off
    # until it would wait or have more than four in hand.
    assert written(2, 2) == ["F0 F1 f0 b0 f1 b1 B0 w0 B1 w1 W0 W1", "F0 f0 F1 f1 b0 B0 b1 B1 w0 W0 w1 W1"]


def test_node_order_of_stages_that_recompute_puts_nothing_off() -> None:
    assert written(2, 2, recomputes=True) == [
        "F0 F1 f0 b0 w0 f1 b1 w1 B0 W0 B1 W1",
        "F0 f0 F1 f1 b0 w0 B0 W0 b1 w1 B1 W1",
    ]
    both, two = np.arange(2), np.full(2, 2)
    assert [held.tolist() for held in held_at_backward(both, 1, two, two)] == [[2, 2], [1, 2]]
    assert [held.tolist() for held in held_at_backward(both, 0, two, two)] == [[2, 2], [0, 1]]


def test_node_order_in_the_middle_does_one_of_each_in_turn() -> None:
    assert written(2, 6)[0].split()[10:22] == ["B0", "W0", "f2", "b2", "w2", "F4", "B1", "W1", "f3", "b3", "w3", "F5"]


def test_node_order_needs_stages_and_micro_batches() -> None:
    with pytest.raises(ValueError, match="0 stages and 4 micro batches have no schedule"):
        node_order(0, 4)
    with pytest.raises(ValueError, match="2 stages and 0 micro batches"):
        node_order(2, 0)


def test_products_of_a_v_keep_their_inputs_in_compiled_blocks() -> None:
    compiled = CompiledSpec(families=("gpt2",), start_s=Seconds(1.0), recomputes_pointwise=True)
    asked = changed(problem(stack={"compiled": compiled}), compiled=True)
    in_turn, in_v = layout(pipeline_parallel=2), layout(pipeline_parallel=2, schedule="zbv", num_model_chunks=2)
    assert [bool(may_recompute_pointwise(asked, columns_of(one))[0]) for one in (in_turn, in_v)] == [True, False]
    assert is_compiled(asked, in_v)
