"""State memory and the phases of a step, by hand: 15328 parameters on one device."""

import pytest

from planner.cost_model.memory import (
    batch_bytes,
    bucket_bytes,
    gather_bytes,
    host_bytes_per_rank,
    predicted_stages,
    reserve_bytes,
    stage_memory,
    state_bytes,
    step_gradient_bytes,
    usable_bytes,
)
from planner.cost_model.terms import total
from planner.layout import Offload
from planner.problem import Reserve
from planner.units import Bytes
from tests.helpers import problem, stages

WHOLE = {"weights": 30656, "gradients": 30656, "master_weights": 61312, "optimizer_moments": 122624}
"""2, 2, 4 and 8 bytes of 15328 parameters."""
ON_HOST = Offload(optimizer=1.0, tier="cpu")


@pytest.mark.parametrize(
    ("zero_stage", "sharded"),
    [
        (0, {}),
        (1, {"master_weights": 30656, "optimizer_moments": 61312}),
        (2, {"master_weights": 30656, "optimizer_moments": 61312, "gradients": 15328}),
    ],
)
def test_state_bytes_by_hand(zero_stage: int, sharded: dict[str, int]) -> None:
    states = state_bytes(problem(), stages(data_parallel=2, zero_stage=zero_stage))
    assert {name: column[0] for name, column in states.items()} == WHOLE | sharded


def test_state_bytes_of_full_precision() -> None:
    states = state_bytes(problem(precision="fp32"), stages(precision="fp32"))
    assert [column[0] for column in states.values()] == [4 * 15328, 4 * 15328, 0, 8 * 15328]


def test_state_bytes_leave_the_device_with_offload() -> None:
    states = state_bytes(problem(), stages(data_parallel=2, zero_stage=1, offload=ON_HOST))
    assert {name: column[0] for name, column in states.items()} == WHOLE | {
        "master_weights": 0,
        "optimizer_moments": 0,
    }


def test_bucket_bytes_by_hand() -> None:
    assert bucket_bytes(problem(), stages()).tolist() == [2 * 15328]
    assert bucket_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [0, 0]
    assert bucket_bytes(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [2 * 1000]


def test_bucket_bytes_are_no_larger_than_the_gradients() -> None:
    roomy = problem(stack={"zero_bucket_bytes": Bytes(10**6)})
    assert bucket_bytes(roomy, stages(data_parallel=2, zero_stage=1)).tolist() == [2 * 2 * 15328]


def test_step_gradient_bytes_by_hand() -> None:
    assert step_gradient_bytes(problem(), stages()).tolist() == [2 * 15328]
    assert step_gradient_bytes(problem(), stages(data_parallel=4, zero_stage=1)).tolist() == [4 * 15328 / 4]


def test_gather_bytes_by_hand() -> None:
    assert gather_bytes(problem(), stages(data_parallel=4, zero_stage=1)).tolist() == [4 * 1000]
    roomy = problem(stack={"zero_bucket_bytes": Bytes(10**6)})
    assert gather_bytes(roomy, stages(data_parallel=4, zero_stage=1)).tolist() == [2 * 15328]


def test_gather_bytes_are_zero_for_one_rank_or_without_zero() -> None:
    assert gather_bytes(problem(), stages(zero_stage=1)).tolist() == [0]
    assert gather_bytes(problem(), stages(data_parallel=4)).tolist() == [0]


def test_batch_bytes_by_hand() -> None:
    assert batch_bytes(problem(), stages(micro_batch=2, num_microbatches=3)).tolist() == [8 * 2 * 3 * 24]


def test_stage_memory_by_hand() -> None:
    phases = stage_memory(problem(), stages()).phases
    held = 30656 + 61312 + 122624 + 1536  # weights, master weights, moments, 64 tokens * 24 bytes
    kept = 4 * 4096 + 512  # activations of four layers, final norm
    gradients, buckets, logits, cast = 30656, 30656, 12288, 30656
    assert total(phases["forward"]).tolist() == [held + kept + gradients + buckets + logits] == [306624]
    assert total(phases["backward"]).tolist() == [held + kept + gradients + buckets] == [294336]
    assert total(phases["optimizer"]).tolist() == [held + gradients + buckets + cast] == [308096]


def test_stage_memory_has_no_gradients_in_the_forward_of_a_single_micro_batch() -> None:
    phases = stage_memory(problem(), stages(micro_batch=8, num_microbatches=1)).phases
    assert phases["forward"]["gradients"].tolist() == [0]
    assert phases["backward"]["gradients"].tolist() == [30656]


def test_stage_memory_recomputes_one_layer_in_backward() -> None:
    phases = stage_memory(problem(), stages(recompute_layers_per_stage=(4,))).phases
    assert phases["backward"]["recomputed_layer"].tolist() == [4096]
    assert phases["backward"]["activations"].tolist() == [4 * 256]


def test_stage_memory_peaks_in_the_largest_phase() -> None:
    assert stage_memory(problem(), stages()).peak_bytes().tolist() == [308096]


def test_host_bytes_per_rank_by_hand() -> None:
    offloaded = stages(data_parallel=2, zero_stage=1, offload=ON_HOST)
    assert host_bytes_per_rank(problem(), offloaded).tolist() == [7664 * (4 + 8 + 4)]


def test_host_bytes_per_rank_are_zero_without_offload() -> None:
    assert host_bytes_per_rank(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [0]


def test_reserve_bytes_by_hand() -> None:
    assert reserve_bytes(problem(), stages()).tolist() == [1000]
    assert reserve_bytes(problem(), stages(tensor_parallel=2)).tolist() == [1100]
    divided = stages(tensor_parallel=2, pipeline_parallel=2, data_parallel=2)
    assert reserve_bytes(problem(stack={"fragmentation": 0.01}), divided).tolist() == [101300, 101300]


def test_reserve_bytes_as_the_user_stated_it() -> None:
    stated = problem(reserve=Reserve(num_bytes=Bytes(5), fraction=0.01))
    assert reserve_bytes(stated, stages(tensor_parallel=2)).tolist() == [5 + 100_000]
    assert usable_bytes(stated, stages()).tolist() == [10_000_000 - 100_005]


def test_prediction_names_phase_and_terms_of_the_peak() -> None:
    (stage,) = predicted_stages(problem(), stages())
    assert (stage.peak_bytes, stage.peak_phase) == (308096, "optimizer")
    assert sum(stage.breakdown_bytes.values()) == 308096
    assert (stage.capacity_bytes, stage.reserve_bytes) == (10_000_000, 1000)
