"""Communication in 2 x 2 and 2 x 2 x 2 grids, by hand: 1e9 B/s and 1 us a message inside the node of 8."""

from typing import Any

import numpy as np
import pytest

from planner.cost_model.grid_communication import (
    broadcast_seconds,
    cube_seconds,
    grid_collectives,
    grid_ends_seconds,
    grid_gradient_seconds,
    grid_layer_seconds,
    grid_seconds,
    norm_seconds,
    summa_seconds,
)
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns
from tests.helpers import problem, stages

HOP = 1e-6


def flat(**overrides: Any) -> StageColumns:
    """A 2 x 2 grid with four sequences a micro batch: 16 tokens a rank."""
    return stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4, **overrides)


def cube(**overrides: Any) -> StageColumns:
    """A 2 x 2 x 2 grid with four sequences a micro batch: 8 tokens a rank."""
    return stages(tensor_mode="3d", tensor_parallel=8, micro_batch=4, **overrides)


def asked(**overrides: Any) -> Problem:
    return problem(num_devices=8, devices_per_node=8, **overrides)


def exposed(**overrides: Any) -> Problem:
    """Nothing hides."""
    return asked(stack={"overlap": {"tensor_parallel": 0.0}}, **overrides)


def test_broadcast_seconds_by_hand() -> None:
    assert broadcast_seconds(asked(), flat(), 0, np.array([1000.0])).tolist() == pytest.approx([1e-6 + 2 * HOP])
    assert broadcast_seconds(asked(), stages(), 0, np.array([1000.0])).tolist() == [0.0]


def test_broadcast_seconds_along_rows_leave_a_node_of_two() -> None:
    crossing = problem(num_devices=4, devices_per_node=2)
    near, far = (broadcast_seconds(crossing, flat(), power, np.array([1e6]))[0] for power in (0, 1))
    assert near == pytest.approx(1e-3 + 2 * HOP)
    # Both members of a node's two groups share the NICs: 1e8 B/s each.
    assert far == pytest.approx(1e-2 + 2 * 12e-6)


def test_summa_seconds_by_hand() -> None:
    inputs, matrix = np.array([112.0]), np.array([3072.0])
    seconds = summa_seconds(exposed(), flat(), inputs, matrix, 4.0)
    # Inputs 16 * 112 and matrices 3072 / 2 elements of two bytes, in 4 * 2 broadcasts along each axis.
    assert seconds.tolist() == pytest.approx([(3584 + 3072) / 1e9 + 4 * 2 * 2 * HOP])


def test_summa_seconds_hide_the_steps_after_the_first() -> None:
    inputs, matrix = np.array([112.0]), np.array([3072.0])
    half, none = (summa_seconds(p, flat(), inputs, matrix, 4.0)[0] for p in (asked(), exposed()))
    assert half == pytest.approx(none * (1 - 0.5 / 2))


def test_cube_seconds_by_hand() -> None:
    seconds = cube_seconds(asked(), cube(), 64.0, 192.0, 3072.0)
    # 8 tokens of 64 and 192 elements, a quarter of 3072; half of each comes from the other rank.
    assert seconds.tolist() == pytest.approx([(512 + 1536 + 768) / 1e9 + 3 * HOP])


def test_norm_seconds_by_hand() -> None:
    # Two norms gather two numbers of four bytes a token from both ranks.
    assert norm_seconds(asked(), flat()).tolist() == pytest.approx([2 * (16 * 8 / 1e9 + HOP)])
    assert norm_seconds(asked(), cube()).tolist() == pytest.approx([2 * (8 * 8 / 1e9 + HOP)])


def test_grid_layer_seconds_by_hand() -> None:
    plain = exposed()
    products = summa_seconds(plain, flat(), np.array([112.0]), np.array([3072.0]), 4.0)
    assert grid_layer_seconds(plain, flat()).tolist() == pytest.approx(products + norm_seconds(plain, flat()))
    solid = cube_seconds(plain, cube(), 64.0, 64.0 + 128.0, 3072.0)
    assert grid_layer_seconds(plain, cube()).tolist() == pytest.approx(solid + norm_seconds(plain, cube()))


def test_grid_ends_seconds_by_hand() -> None:
    plain = exposed()
    states = 16 * 16 * 2 / 2 / 1e9 + HOP
    head = summa_seconds(plain, flat(), np.array([128.0]), np.array([2048.0]), 1.0)[0]
    loss = 2 * (16 * 12 / 2 / 1e9 + HOP)
    assert grid_ends_seconds(plain, flat()).tolist() == pytest.approx([2 * states + 3 * head + loss])


def test_grid_ends_seconds_in_3d_gather_the_table() -> None:
    plain = exposed()
    states, table = 8 * 16 * 2 / 2 / 1e9 + HOP, 2048 / 4 * 2 / 2 / 1e9 + HOP
    head = cube_seconds(plain, cube(), 16.0, 128.0, 2048.0)[0]
    loss = 2 * (8 * 12 / 2 / 1e9 + HOP)
    assert grid_ends_seconds(plain, cube()).tolist() == pytest.approx([2 * (states + table) + 2 * head + loss])


def test_grid_ends_seconds_are_on_the_ends_of_a_pipeline() -> None:
    piped = stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4, pipeline_parallel=4)
    seconds = grid_ends_seconds(problem(num_devices=16, devices_per_node=8), piped)
    assert (seconds[[0, 3]] > 0).all()
    assert seconds[[1, 2]].tolist() == [0, 0]


def test_grid_gradient_seconds_by_hand() -> None:
    # Matrices have no copy in 2D; vectors, half of 4 * 208 + 128 + 32, have two.
    vectors = (4 * 208 + 128 + 32) / 2 * 2
    assert grid_gradient_seconds(asked(), flat()).tolist() == pytest.approx([2 * (vectors / 2 / 1e9 + HOP)])


def test_grid_gradient_seconds_in_2_5d_reduce_matrices_along_the_depth() -> None:
    deep = stages(tensor_mode="2.5d", tensor_parallel=8, tensor_depth=2, micro_batch=4)
    vectors = (4 * 208 + 128 + 32) / 2 * 2
    matrices = (4 * 3072 / 4 + 2048 / 4) * 2
    expected = 2 * (matrices / 2 / 1e9 + HOP) + 2 * (vectors * 3 / 4 / 1e9 + 3 * HOP)
    assert grid_gradient_seconds(asked(), deep).tolist() == pytest.approx([expected])


def test_grid_collectives_by_hand() -> None:
    plain = exposed()
    layer = grid_layer_seconds(plain, flat())[0]
    once, again = grid_collectives(plain, flat())
    assert (once.tolist(), again.tolist()) == (pytest.approx([3 * layer]), pytest.approx([layer]))
    assert grid_collectives(plain, stages(tensor_parallel=4)).once.tolist() == [0.0]


def test_grid_seconds_by_hand() -> None:
    plain = exposed()
    layer = grid_layer_seconds(plain, flat())[0]
    terms = grid_seconds(plain, flat(recompute_layers_per_stage=(3,)))
    # Forward once, backward twice, recomputation once.
    assert terms["layers"].tolist() == pytest.approx([(4 * 3 + 3) * layer])
    assert terms["embedding_and_loss"].tolist() == grid_ends_seconds(plain, flat()).tolist()


def test_grid_seconds_in_3d_hide_half_of_backward_as_far_as_the_stack_does() -> None:
    layer = grid_layer_seconds(asked(), cube())[0]
    assert grid_seconds(asked(), cube())["layers"].tolist() == pytest.approx([4 * (1 + 0.75) * layer])


def test_grid_seconds_are_zero_in_other_modes() -> None:
    terms = grid_seconds(asked(), stages(tensor_parallel=4))
    assert [column.tolist() for column in terms.values()] == [[0], [0]]
