"""The phases of a step, by hand: 15328 parameters on one device."""

import numpy as np

from planner.cost_model.held import largest_tensor_bytes
from planner.cost_model.memory import (
    batch_bytes,
    buffered_gradients,
    flat_bytes,
    head_gradient_bytes,
    predicted_stages,
    reserved_bytes,
    stage_memory,
    workspace_bytes,
)
from planner.cost_model.terms import total
from planner.specs.units import Bytes
from tests.helpers import problem, stages


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
    # At its start backward has made the gradient of the head alone.
    assert phases["backward"]["gradients"].tolist() == [2 * 2048]


def test_stage_memory_recomputes_one_layer_in_backward() -> None:
    phases = stage_memory(problem(), stages(recompute_layers_per_stage=(4,))).phases
    assert phases["backward"]["layer_in_backward"].tolist() == [4096]
    assert phases["backward"]["activations"].tolist() == [4 * 256]


def test_stage_memory_at_the_end_of_backward_has_all_gradients_and_one_layer() -> None:
    phases = stage_memory(problem(), stages(micro_batch=8, num_microbatches=1)).phases
    end = phases["end_of_backward"]
    assert end["gradients"].tolist() == [30656]
    assert end["activations"].tolist() == [8 * 4096]


def test_head_gradient_bytes_are_those_of_the_last_stage() -> None:
    gradients = np.array([10**6, 10**6])
    assert head_gradient_bytes(problem(), stages(pipeline_parallel=2), gradients).tolist() == [0, 2 * 2048]


def test_head_gradient_bytes_are_at_most_all_gradients() -> None:
    assert head_gradient_bytes(problem(), stages(), np.array([100.0])).tolist() == [100]


def test_stage_memory_gathers_the_head_in_forward_and_layers_in_backward() -> None:
    phases = stage_memory(problem(), stages(data_parallel=4, zero_stage=3)).phases
    assert phases["forward"]["gathered_weights"].tolist() == [2 * 3072]
    assert phases["backward"]["gathered_weights"].tolist() == [4 * 3280]
    assert "gathered_weights" not in phases["optimizer"]


def test_stage_memory_peaks_in_the_largest_phase() -> None:
    assert stage_memory(problem(), stages()).peak_bytes().tolist() == [308096]


def test_prediction_names_phase_and_terms_of_the_peak() -> None:
    (stage,) = predicted_stages(problem(), stages())
    assert (stage.peak_bytes, stage.peak_phase) == (308096, "optimizer")
    assert sum(stage.breakdown_bytes.values()) == 308096
    assert (stage.capacity_bytes, stage.reserve_bytes) == (10_000_000, 1000)
    assert (stage.reserved_bytes, stage.device_bytes) == (308096, 309096)


def test_prediction_of_reserved_memory_adds_the_share_between_blocks() -> None:
    (stage,) = predicted_stages(problem(stack={"fragmentation": 0.25}), stages())
    assert stage.reserved_bytes == 308096 * 1.25
    assert stage.device_bytes == stage.reserved_bytes + 1000


def test_prediction_of_reserved_memory_includes_blocks_of_the_set_up_that_need_no_reserve() -> None:
    (stage,) = predicted_stages(problem(stack={"process": {"cached_bytes": Bytes(500)}}), stages())
    assert (stage.reserved_bytes, stage.reserve_bytes) == (308096 + 500, 1000)


def test_reserved_bytes_have_flat_step_buffers_beside_the_rest() -> None:
    flat = problem(stack={"process": {"flat_step_buffers": True}})
    phases = stage_memory(flat, stages()).phases
    rest = max(sum(float(v[0]) for k, v in terms.items() if k != "step_temporaries") for terms in phases.values())
    assert reserved_bytes(flat, stages()).tolist() == [rest + 2 * 15328]
    assert reserved_bytes(flat, stages())[0] > reserved_bytes(problem(), stages())[0] == 308096


def test_reserved_bytes_of_flat_step_buffers_end_where_the_card_is_full() -> None:
    small = problem(stack={"process": {"flat_step_buffers": True}}, hardware={"memory_bytes": Bytes(310000)})
    assert reserved_bytes(small, stages()).tolist() == [309000]


def test_workspace_bytes_are_there_in_every_phase() -> None:
    asked = problem(stack={"process": {"workspaces": 2.0}}, hardware={"workspace_bytes": Bytes(1000)})
    assert workspace_bytes(asked) == 2000
    assert stage_memory(asked, stages()).peak_bytes().tolist() == [308096 + 2000]
    assert workspace_bytes(problem()) == 0


def test_buffered_gradients_exist_before_the_first_backward() -> None:
    asked = problem(stack={"mixed_precision": {"gradient_buffer": 2.0}})
    single = stages(micro_batch=8, num_microbatches=1)
    assert buffered_gradients(asked, single).tolist() == [2 * 15328]
    assert stage_memory(asked, single).phases["forward"]["gradients"].tolist() == [2 * 15328]


def test_stage_memory_has_buckets_of_zero_in_backward_alone() -> None:
    phases = stage_memory(problem(), stages(data_parallel=4, zero_stage=1)).phases
    in_phases = {name: terms["communication_buckets"].tolist() for name, terms in phases.items()}
    assert in_phases == {"forward": [0], "backward": [2000], "end_of_backward": [2000], "optimizer": [0]}


def test_flat_bytes_have_slices_apart_that_no_tensor_of_a_micro_batch_makes_room_for() -> None:
    stack = {"process": {"flat_step_buffers": True}, "zero_copies_slices": True, "zero_gather_bytes": Bytes(10**6)}
    cast_s = {"mixed_precision": {"zero_step_gradient": 0.0}}
    asked, weights = problem(stack=stack | cast_s), 30656
    few, many = stages(data_parallel=4, zero_stage=1), stages(data_parallel=8, zero_stage=1)
    assert largest_tensor_bytes(asked, few).tolist() == [4096]
    assert flat_bytes(asked, few).tolist() == [weights + 5 * weights / 4]
    assert flat_bytes(asked, many).tolist() == [weights]


def test_flat_bytes_are_less_by_moments_that_stand_in_blocks_of_activations() -> None:
    process = {"flat_step_buffers": True, "moments_in_blocks": True}
    stack = {"process": process, "zero_gather_bytes": Bytes(10**6), "mixed_precision": {"zero_step_gradient": 0.0}}
    asked = problem(stack=stack)
    # 15328 parameters, of which each of eight ranks has the eighth's moments in 8 bytes, and all of them as weights.
    assert flat_bytes(asked, stages(data_parallel=8, zero_stage=1)).tolist() == [2 * 15328 - 15328]
    assert flat_bytes(asked, stages(data_parallel=2, zero_stage=1)).tolist() == [0]
