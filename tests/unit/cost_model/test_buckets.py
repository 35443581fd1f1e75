"""DDP's buckets by hand: matrices of 768, 256, 1024 and 1024 two-byte elements a layer, 6144 bytes."""

import pytest

from planner.cost_model.buckets import bucket_seconds, gradient_buckets
from planner.cost_model.communication import data_parallel_seconds
from planner.specs.units import Bytes
from tests.helpers import problem, stages

MEAN = (1536**2 + 512**2 + 2 * 2048**2) / 6144


def test_gradient_buckets_hold_half_a_matrix_more_than_they_take() -> None:
    asked = problem(stack={"ddp_bucket_cap_bytes": Bytes(2000)})
    whole = 4 * 6144 / (2000 + MEAN / 2) + 2
    assert gradient_buckets(asked, stages()).tolist() == pytest.approx([whole])
    halves = 4 * 3072 / (2000 + MEAN / 4) + 2
    assert gradient_buckets(asked, stages(tensor_parallel=2)).tolist() == pytest.approx([halves])
    ends = gradient_buckets(asked, stages(pipeline_parallel=4, tensor_parallel=1))
    assert (ends[0] - ends[1], ends[3] - ends[2]) == (1.0, 1.0)
    assert gradient_buckets(problem(), stages()).tolist() == [0.0]


def test_bucket_seconds_are_a_ring_s_steps_for_each_without_zero() -> None:
    asked = problem(stack={"ddp_bucket_cap_bytes": Bytes(2000)})
    shared = stages(data_parallel=4, num_microbatches=2)
    buckets = gradient_buckets(asked, shared)[0]
    assert bucket_seconds(asked, shared).tolist() == pytest.approx([buckets * 6 * 1e-6])
    assert bucket_seconds(asked, stages()).tolist() == [0.0]
    assert bucket_seconds(asked, stages(data_parallel=4, num_microbatches=2, zero_stage=1)).tolist() == [0.0]
    more = data_parallel_seconds(asked, shared) - data_parallel_seconds(problem(), shared)
    assert more.tolist() == pytest.approx(bucket_seconds(asked, shared).tolist())
