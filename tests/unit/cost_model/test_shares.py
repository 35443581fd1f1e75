"""What part of each tensor a rank holds, in every mode."""

from typing import Any

import pytest

from planner.cost_model.shares import Shares, rank_tokens, shares
from tests.helpers import problem, stages


@pytest.mark.parametrize(
    ("divided", "expected"),
    [
        ({}, (1, 1, 1, 1, 1, 1)),
        ({"tensor_parallel": 4}, (1 / 4, 1 / 4, 1, 1, 1, 1 / 4)),
        ({"tensor_parallel": 4, "sequence_parallel": True}, (1 / 4, 1 / 4, 1, 1, 1 / 4, 1 / 4)),
        ({"tensor_mode": "2d", "tensor_parallel": 4}, (1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2)),
        ({"tensor_mode": "2d", "tensor_parallel": 16}, (1 / 16, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 4)),
        ({"tensor_mode": "2.5d", "tensor_parallel": 4}, (1 / 4, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2)),
        ({"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}, (1 / 4, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1 / 2)),
        ({"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2}, (1, 1, 1, 1 / 2, 1, 1)),
        ({"tensor_mode": "3d", "tensor_parallel": 8}, (1 / 8, 1 / 2, 1 / 2, 1 / 4, 1 / 2, 1 / 2)),
    ],
)
def test_shares_by_hand(divided: Any, expected: tuple[float, ...]) -> None:
    """Matrix, column vector, row vector, tokens, whole hidden, split hidden."""
    found = shares(stages(**divided).layouts)
    assert tuple(float(column[0]) for column in found) == pytest.approx(expected)
    assert len(expected) == len(Shares._fields)


def test_rank_tokens_by_hand() -> None:
    assert rank_tokens(problem(), stages(micro_batch=4, tensor_parallel=4)).tolist() == [32]
    assert rank_tokens(problem(), stages(micro_batch=4, tensor_mode="3d", tensor_parallel=8)).tolist() == [8]
