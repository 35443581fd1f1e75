"""The zero-bubble V schedule: its pieces of work, what they hold, and steps by hand."""

import numpy as np
import pytest

from planner.cost_model import predict
from planner.cost_model.activations import (
    in_flight_microbatches,
    kept_bytes,
    layer_activation_bytes,
    pipeline_buffer_bytes,
)
from planner.cost_model.communication import layer_collectives, tied_embedding_seconds
from planner.cost_model.compute import layer_seconds, recomputed_layer_seconds
from planner.cost_model.deferred import deferred_bytes
from planner.cost_model.parameters import stage_parameters
from planner.cost_model.pipeline import stage_times
from planner.cost_model.schedule_graph import schedule_step_seconds
from planner.cost_model.terms import total
from planner.cost_model.zero_bubble import Pieces, least_v_seconds, piece_times, stage_ends, v_ends, v_seconds
from planner.layouts.layout import LayoutColumns
from planner.layouts.stages import StageColumns, stages_of
from tests.helpers import layout, problem, problem_of, stages
from tests.unit.cost_model.test_pipeline import EMBEDDING_S, HEAD_S, LAYER_S, SEND_S

V = {"pipeline_parallel": 2, "schedule": "zbv", "num_model_chunks": 2}
WEIGHTS_S = (2560 + 1024 + 3328 + 3328) / 5e8
LOGITS_S = 20480 / 5e8


def in_v(**overrides: object) -> StageColumns:
    return stages(**(V | overrides))


def test_in_flight_microbatches_of_a_v_are_the_same_on_all_stages() -> None:
    assert in_flight_microbatches(in_v(pipeline_parallel=4, layers_per_stage=(1,) * 4)).tolist() == [4] * 4
    assert in_flight_microbatches(in_v(num_microbatches=1)).tolist() == [1, 1]


def test_kept_bytes_of_a_v_are_what_weight_gradients_hold_where_that_is_more() -> None:
    columns, asked = in_v(), problem()
    assert deferred_bytes(asked, columns)[0] == layer_activation_bytes(asked, columns)[0] == 4096
    less = problem(stack={"activations": {"replicated_elements": 0.0}})
    assert kept_bytes(less, columns).tolist() == [2 * 2 * 4096] * 2
    more = problem(stack={"activations": {"replicated_elements": 8.0}})
    assert kept_bytes(more, columns).tolist() == [2 * 2 * 5120] * 2


def test_pipeline_buffer_bytes_of_a_v_are_what_is_on_its_way() -> None:
    deep = in_v(pipeline_parallel=4, layers_per_stage=(1,) * 4)
    assert pipeline_buffer_bytes(problem(), deep).tolist() == [2 * 2 * 256] * 4


def test_stage_parameters_of_a_v_are_both_ends_on_the_first_stage() -> None:
    untied = problem(model={"tied_embeddings": False})
    held = stage_parameters(untied, in_v())
    assert {name: held[name].tolist() for name in ("token_embedding", "final_norm", "head")} == {
        "token_embedding": [2048, 0],
        "final_norm": [32, 0],
        "head": [2048, 0],
    }
    assert stage_parameters(problem(), in_v())["head"].tolist() == [0, 0]


def test_tied_embedding_seconds_of_a_v_are_none() -> None:
    assert tied_embedding_seconds(problem(), in_v()).tolist() == [0, 0]


def test_layer_collectives_hide_nothing_behind_weight_gradients_that_are_put_off() -> None:
    hidden, exposed = (
        layer_collectives(problem(), stages(**(V | {"tensor_parallel": 2, "schedule": schedule}))).once[0]
        for schedule in ("interleaved", "zbv")
    )
    # Two all-reduces forward, and in backward two or half of them.
    assert exposed / hidden == pytest.approx(4 / 3)


def test_piece_times_by_hand() -> None:
    asked, columns = problem(num_devices=2), in_v()
    pieces = piece_times(asked, columns, stage_times(asked, columns))
    head = (HEAD_S - LOGITS_S) / 3 + LOGITS_S / 2
    assert pieces.forward_s[0].tolist() == [
        pytest.approx([LAYER_S + 3 / 8 * EMBEDDING_S, LAYER_S + head]),
        pytest.approx([LAYER_S] * 2),
    ]
    assert pieces.weight_s[0].tolist() == [pytest.approx([WEIGHTS_S] * 2)] * 2
    assert pieces.backward_s[0, 1].tolist() == pytest.approx([2 * LAYER_S - WEIGHTS_S] * 2)
    assert pieces.message_s.tolist() == pytest.approx([SEND_S])


def test_piece_times_add_up_to_the_time_of_a_microbatch() -> None:
    asked = problem(stack={"traffic": {"gradient_bytes": 6.0}})
    columns = in_v(tensor_parallel=2)
    times = stage_times(asked, columns)
    pieces = piece_times(asked, columns, times)
    whole = sum(of_kind.sum(axis=2)[0] for of_kind in pieces.of_kinds.values())
    assert np.asarray(whole).tolist() == pytest.approx(total(times.microbatch).tolist())
    assert times.microbatch["gradient_accumulation"].min() > 0


def test_piece_times_have_what_a_chunk_recomputes_in_its_backward() -> None:
    asked = problem(num_devices=2)
    plain, again = in_v(), in_v(recompute_layers_per_stage=(1, 2))
    once, twice = (piece_times(asked, columns, stage_times(asked, columns)) for columns in (plain, again))
    assert twice.forward_s.tolist() == once.forward_s.tolist()
    assert twice.weight_s.tolist() == once.weight_s.tolist()
    # All of forward, also with its last product.
    layer_s = recomputed_layer_seconds(asked, again)
    assert layer_s.tolist() == pytest.approx(layer_seconds(asked, again).forward.tolist())
    more = (twice.backward_s - once.backward_s)[0]
    assert more.tolist() == [pytest.approx([LAYER_S, 0.0]), pytest.approx([LAYER_S, LAYER_S])]


def test_v_ends_of_stages_that_recompute_are_those_of_their_own_order() -> None:
    asked, columns = problem(num_devices=2), in_v(recompute_layers_per_stage=(1, 1), num_microbatches=4)
    pieces, counts = piece_times(asked, columns, stage_times(asked, columns)), np.array([4])
    assert v_ends(asked, columns).tolist() == stage_ends(pieces, counts, recomputes=True)[0].tolist()
    assert v_ends(asked, columns).tolist() != stage_ends(pieces, counts)[0].tolist()
    assert v_seconds(asked, columns).tolist() == [v_ends(asked, columns).max()]


def test_least_v_seconds_are_reached_where_all_pieces_take_as_long() -> None:
    # Six pieces for each of four micro batches, and two on the way down to the second stage and back.
    ones = np.ones((1, 2, 2))
    pieces = Pieces(forward_s=ones, backward_s=ones, weight_s=ones, message_s=np.zeros(1))
    assert stage_ends(pieces, np.array([4]), recomputes=True).max() == 6 * 4 + 2


@pytest.mark.parametrize("recompute", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("count", [2, 4, 40])
def test_least_v_seconds_are_no_more_than_those_played(recompute: tuple[int, int], count: int) -> None:
    asked, columns = problem(num_devices=2), in_v(recompute_layers_per_stage=recompute, num_microbatches=count)
    least, played = least_v_seconds(asked, columns)[0], v_seconds(asked, columns)[0]
    assert least <= played * (1 + 1e-12)
    assert least >= 0.75 * played
    assert np.isnan(least_v_seconds(asked, in_v())).tolist() == [True]


def test_v_seconds_of_two_micro_batches_by_hand() -> None:
    ones = np.ones((1, 2, 2))
    pieces = Pieces(forward_s=ones, backward_s=ones, weight_s=ones, message_s=np.zeros(1))
    assert stage_ends(pieces, np.array([2])).tolist() == [[13.0, 13.0]]
    later = Pieces(forward_s=ones, backward_s=ones, weight_s=ones, message_s=np.full(1, 0.5))
    # The second stage: F0 from 1.5 on, then f0 F1 f1 to 5.5; b0 has its gradient at 6.5, b1 at 8.5, and B1 and four
    # weight gradients follow. The first: f0 from 4 on, f1 from 6, B0 from 9 and B1 from 11, then w1 W0 W1.
    assert stage_ends(later, np.array([2])).tolist() == [[15.0, 14.5]]


def test_v_seconds_are_for_layouts_in_a_v_alone() -> None:
    asked, both = problem(num_devices=2), mixed()
    seconds = v_seconds(asked, both)
    assert np.isnan(seconds).tolist() == [True, False]
    own = in_v(num_microbatches=4)
    assert seconds[1] == pytest.approx(v_seconds(asked, own)[0])


def mixed() -> StageColumns:
    """One layout in turn and one in a V, of two stages each."""
    numbers = {"pipeline_parallel": [2, 2], "num_microbatches": [4, 4], "schedule": [1, 3], "num_model_chunks": [1, 2]}
    columns = LayoutColumns.of({name: np.array(column) for name, column in numbers.items()}, 2)
    return stages_of(columns).with_layers(np.full(4, 2))


def test_schedule_step_seconds_of_a_v_let_other_stages_start_their_tail_early() -> None:
    one = layout(**V)
    asked, columns = problem_of(one), in_v()
    times = stage_times(asked, columns)
    ends = stage_ends(piece_times(asked, columns, times), np.array([8]))[0]
    expected = pytest.approx((ends + total(times.tail)).max())
    assert schedule_step_seconds(asked, columns) == expected
    assert predict(asked, one).schedule_step_s == expected
