"""What stages of a V keep that recompute, by hand."""

from itertools import pairwise

import numpy as np
import pytest

from planner.cost_model.activations import boundary_bytes, kept_bytes, layer_activation_bytes
from planner.cost_model.deferred import deferred_bytes, routed_deferred_bytes
from planner.cost_model.expert_shares import routed_kept_bytes
from planner.cost_model.memory import stage_memory
from planner.cost_model.v_memory import kept_in_phases, recomputed_of_chunks
from planner.layouts.stages import stages_of_layout
from tests.helpers import changed, expert_problem, layout, problem
from tests.unit.cost_model.test_zero_bubble import in_v

PLAIN = DEFERRED = 4096
INPUT = 256
DEEP = {"pipeline_parallel": 2, "layers_per_stage": (4, 4), "num_microbatches": 8}
"""Four layers a stage, so that each chunk has two; the first stage holds 4 and 0 micro batches of its chunks, or 3 and
1, the last 3 and 1, or 2 and 2."""


def test_recomputed_of_chunks_are_those_of_the_first_one_first() -> None:
    columns = in_v(**DEEP, recompute_layers_per_stage=(1, 3))
    assert [own.tolist() for own in recomputed_of_chunks(problem(), columns)] == [[1, 2], [0, 1]]
    alike = problem(stack={"recompute": "alike"})
    both = in_v(**DEEP, recompute_layers_per_stage=(2, 4))
    assert [own.tolist() for own in recomputed_of_chunks(alike, both)] == [[1, 2], [1, 2]]


def test_kept_in_phases_are_the_same_where_nothing_recomputes_or_nothing_is_in_a_v() -> None:
    asked = problem()
    for columns in (in_v(**DEEP), stages_of_layout(layout(pipeline_parallel=2, recompute_layers_per_stage=(1, 2)))):
        for kept in kept_in_phases(asked, columns):
            assert kept.tolist() == kept_bytes(asked, columns).tolist()


@pytest.mark.parametrize(
    ("recompute", "forward", "backward"),
    [
        # Chunks of inputs alone; the one that goes backward has products of one layer beside the input of the first.
        (4, 4 * 2 * INPUT, 3 * 2 * INPUT + DEFERRED + INPUT),
        # The second chunk keeps a layer and the input of the other.
        (3, {0: 3, 1: 2}, None),
        # The first chunk of inputs, the second whole.
        (2, {0: 3, 1: 2}, None),
        (1, {0: 3, 1: 2}, None),
    ],
)
def test_kept_in_phases_by_hand(recompute: int, forward: object, backward: int | None) -> None:
    asked, columns = problem(), in_v(**DEEP, recompute_layers_per_stage=(recompute,) * 2)
    assert layer_activation_bytes(asked, columns)[0] == deferred_bytes(asked, columns)[0] == PLAIN
    assert boundary_bytes(asked, columns)[0] == INPUT
    first, second = min(recompute, 2), max(recompute - 2, 0)
    chunks = [(2 - own) * PLAIN + own * INPUT for own in (first, second)]
    found_forward, found_backward = kept_in_phases(asked, columns)
    held = {0: (3, 1), 1: (2, 2)}
    assert found_forward.tolist() == [held[stage][0] * chunks[0] + held[stage][1] * chunks[1] for stage in (0, 1)]
    if isinstance(forward, int):
        assert found_forward.tolist() == [forward] * 2
        assert found_backward.tolist() == [backward] * 2
        return
    # A chunk at work comes to hold as much of a layer as it kept of it, and is the most at its beginning or before the
    # last of its layers, which keeps its input alone.
    begins = {0: [(4, 0), (3, 1)], 1: [(3, 1), (2, 2)]}
    works = [max(chunks[0], DEFERRED + INPUT), max(chunks[1], DEFERRED + (INPUT if second else PLAIN))]
    for stage in (0, 1):
        moments = [
            counts[0] * chunks[0] + counts[1] * chunks[1] - chunks[chunk] + works[chunk]
            for chunk, counts in enumerate(begins[stage])
        ]
        assert found_backward[stage] == max(moments)


def test_kept_in_phases_of_experts_have_those_of_the_layers_that_do_not_recompute() -> None:
    asked, columns = expert_problem(), in_v(recompute_layers_per_stage=(1, 1))
    forward, backward = kept_in_phases(asked, columns)
    own = layer_activation_bytes(asked, columns) + routed_kept_bytes(asked, columns, np.array([1, 1]))
    inputs, held = boundary_bytes(asked, columns), [(3, 1), (2, 2)]
    assert forward.tolist() == [a * i + b * k for (a, b), i, k in zip(held, inputs, own, strict=True)]
    products = deferred_bytes(asked, columns) + routed_deferred_bytes(asked, columns, columns.num_layers) / 2
    assert (products > 0).all()
    assert (backward >= forward).all()


def test_a_stage_that_recomputes_has_what_it_makes_again_in_backward_alone() -> None:
    asked = problem()
    columns = in_v(**DEEP, recompute_layers_per_stage=(4, 4))
    phases = stage_memory(asked, columns).phases
    forward, backward = kept_in_phases(asked, columns)
    assert phases["forward"]["activations"].tolist() == forward.tolist()
    assert phases["backward"]["activations"].tolist() == backward.tolist()
    assert phases["backward"]["layer_in_backward"].min() > PLAIN


def test_each_recomputed_layer_after_the_first_takes_no_more() -> None:
    asked = changed(problem(), model={"num_layers": 16})
    columns = in_v(**DEEP | {"layers_per_stage": (8, 8)}, recompute_layers_per_stage=(1, 1))
    kept = [np.array(kept_in_phases(asked, columns.with_recompute(np.full(2, r)))) for r in range(1, 9)]
    assert all((after <= before).all() for before, after in pairwise(kept))
    assert (kept[-1] < kept[0] / 3).all()
