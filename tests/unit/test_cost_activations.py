"""Activation memory by hand: one micro batch is 8 tokens of hidden 16, 256 bytes a hidden state."""

from typing import Any

import pytest

from planner.cost_model.activations import (
    boundary_bytes,
    ends_bytes,
    in_flight_microbatches,
    kept_bytes,
    layer_activation_bytes,
    logits_bytes,
    pipeline_buffer_bytes,
    recompute_working_bytes,
)
from tests.helpers import problem, stages

MATERIALISED = {"activations": {"attention": "materialised"}}


@pytest.mark.parametrize(
    ("asked", "divided", "expected"),
    [
        ({}, {}, 256 * (4 + 12)),
        ({}, {"tensor_parallel": 2}, 256 * (4 + 6)),
        ({}, {"tensor_parallel": 2, "sequence_parallel": True}, 256 * (2 + 6)),
        ({"model": {"dropout": 0.1}}, {}, 256 * 16 + 8 * 16 * 2),
        ({"precision": "fp32"}, {}, 512 * 16),
        ({"stack": MATERIALISED}, {}, 256 * 16 + 8 * 8 * 4 * (2 * 2)),
        ({"stack": MATERIALISED, "model": {"dropout": 0.1}}, {"tensor_parallel": 2}, 128 * (10 + 12) + 128 * 5),
    ],
)
def test_layer_activation_bytes_by_hand(asked: Any, divided: Any, expected: int) -> None:
    assert layer_activation_bytes(problem(**asked), stages(**divided)).tolist() == [expected]


def test_layer_activation_bytes_agree_with_the_published_equation() -> None:
    """``s b h (10 + 24 / t + 5 a s / h t)`` in 16 bit with dropout."""
    asked = problem(stack=MATERIALISED, model={"dropout": 0.1})
    published = 8 * 3 * 16 * (10 + 24 / 4 + 5 * 4 * 8 / (16 * 4))
    layers = stages(tensor_parallel=4, micro_batch=3)
    assert layer_activation_bytes(asked, layers).tolist() == [published]


def test_boundary_bytes_by_hand() -> None:
    assert boundary_bytes(problem(), stages(micro_batch=3)).tolist() == [8 * 3 * 16 * 2]
    assert boundary_bytes(problem(), stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [128]
    assert boundary_bytes(problem(), stages(tensor_parallel=2)).tolist() == [256]


def test_in_flight_microbatches_of_1f1b() -> None:
    assert in_flight_microbatches(stages(pipeline_parallel=4)).tolist() == [4, 3, 2, 1]
    assert in_flight_microbatches(stages(pipeline_parallel=4, num_microbatches=2)).tolist() == [2, 2, 2, 1]


def test_in_flight_microbatches_of_one_stage_is_one() -> None:
    assert in_flight_microbatches(stages()).tolist() == [1]


def test_in_flight_microbatches_of_interleaved_chunks() -> None:
    # (2 * 1 + 1 * 2 + 1) / 2 and (0 + 1 * 2 + 1) / 2 whole stages.
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    assert in_flight_microbatches(chunked).tolist() == [2.5, 1.5]


def test_kept_bytes_by_hand() -> None:
    kept = kept_bytes(problem(), stages(pipeline_parallel=2, recompute_layers_per_stage=(1, 0)))
    assert kept.tolist() == [2 * (4096 + 256), 1 * 2 * 4096]


def test_kept_bytes_of_full_recomputation_are_the_inputs() -> None:
    assert kept_bytes(problem(), stages(recompute_layers_per_stage=(4,))).tolist() == [4 * 256]


def test_pipeline_buffer_bytes_by_hand() -> None:
    assert pipeline_buffer_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [2 * 256, 256]


def test_pipeline_buffer_bytes_are_zero_for_one_stage() -> None:
    assert pipeline_buffer_bytes(problem(), stages()).tolist() == [0]


def test_recompute_working_bytes_are_one_layer() -> None:
    working = recompute_working_bytes(problem(), stages(pipeline_parallel=2, recompute_layers_per_stage=(2, 0)))
    assert working.tolist() == [4096, 0]


def test_logits_bytes_by_hand() -> None:
    assert logits_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [0, 8 * 128 * 12]
    assert logits_bytes(problem(), stages(tensor_parallel=2)).tolist() == [8 * 64 * 12]
    assert logits_bytes(problem(precision="fp32"), stages()).tolist() == [8 * 128 * 16]


def test_ends_bytes_by_hand() -> None:
    asked = problem(model={"dropout": 0.1})
    # Two micro batches of 8 * 16 mask bytes on the first stage, two hidden states on the last.
    assert ends_bytes(asked, stages(pipeline_parallel=2)).tolist() == [2 * 128, 2 * 256]


def test_ends_bytes_without_dropout() -> None:
    assert ends_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [0, 512]
