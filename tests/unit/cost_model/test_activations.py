"""Activation memory by hand: one micro batch is 8 tokens of hidden 16, 256 bytes a hidden state."""

from typing import Any

import pytest

from planner.cost_model.activations import (
    apart_bytes,
    boundary_bytes,
    ends_bytes,
    exchanged_bytes,
    first_layer_bytes,
    gather_buffer_bytes,
    gathered_input_bytes,
    gathered_operand_bytes,
    in_flight_microbatches,
    kept_bytes,
    layer_activation_bytes,
    layer_backward_bytes,
    logits_bytes,
    mask_bytes,
    outliving_bytes,
    pipeline_buffer_bytes,
    shorter_chunk,
    summa_buffer_bytes,
)
from planner.cost_model.memory import stage_memory
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


def test_apart_bytes_by_hand() -> None:
    assert apart_bytes(problem(), stages()).tolist() == [2 * 256 * 4]
    assert apart_bytes(problem(), stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [256 * 4]
    divided = stages(pipeline_parallel=2, recompute_layers_per_stage=(1, 0), micro_batch=3)
    assert apart_bytes(problem(), divided).tolist() == [3 * 512 * (2 * 1 + 1), 3 * 512 * 2]


def test_in_flight_microbatches_of_1f1b() -> None:
    assert in_flight_microbatches(stages(pipeline_parallel=4)).tolist() == [4, 3, 2, 1]
    assert in_flight_microbatches(stages(pipeline_parallel=4, num_microbatches=2)).tolist() == [2, 2, 2, 1]


def test_in_flight_microbatches_of_one_stage_is_one() -> None:
    assert in_flight_microbatches(stages()).tolist() == [1]


def test_in_flight_microbatches_of_interleaved_chunks() -> None:
    # (2 * 1 + 1 * 2 + 1) / 2 and (0 + 1 * 2 + 1) / 2 whole stages.
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    assert in_flight_microbatches(chunked).tolist() == [2.5, 1.5]


def test_shorter_chunk_by_hand() -> None:
    """6 layers on 2 stages of 2 chunks: 2 layers a chunk, of which the ends lack one each."""
    asked = problem(model={"num_layers": 6}, stack={"ends_as_layers": True})
    divided = {"pipeline_parallel": 2, "num_model_chunks": 2, "schedule": "interleaved", "layers_per_stage": (3, 3)}
    missing, passes = shorter_chunk(asked, stages(num_microbatches=4, **divided))
    assert (missing.tolist(), passes.tolist()) == ([1, 1], [3, 0])
    # With one group of micro batches all of them are in flight in every chunk.
    missing, passes = shorter_chunk(asked, stages(num_microbatches=2, **divided))
    assert (missing.tolist(), passes.tolist()) == ([1, 1], [2, 1])
    plain = problem(model={"num_layers": 6})
    assert shorter_chunk(plain, stages(num_microbatches=4, **divided))[0].tolist() == [0, 0]


@pytest.mark.parametrize("count", [4, 8, 16])
def test_shorter_chunk_makes_kept_bytes_those_of_the_schedule(count: int) -> None:
    """14 layers on 4 stages of 4 chunks of one layer, the ends without theirs, against the schedule played."""
    asked = problem(model={"num_layers": 14}, stack={"ends_as_layers": True})
    divided = {"pipeline_parallel": 4, "num_model_chunks": 4, "schedule": "interleaved", "num_microbatches": count}
    kept = kept_bytes(asked, stages(layers_per_stage=(3, 4, 4, 3), **divided)) / (256 * 16)
    assert kept.tolist() == [_fullest(stage, count, short={0: (0,), 3: (3,)}.get(stage, ())) for stage in range(4)]


def _fullest(stage: int, count: int, *, short: tuple[int, ...], size: int = 4) -> int:
    """The most layers in flight on a stage of ``size`` stages and chunks of one layer, none in those of ``short``."""
    order = [chunk for _ in range(0, count, size) for chunk in range(size) for _ in range(size)]
    layers = [int(chunk not in short) for chunk in order]
    back = [int(size - 1 - chunk not in short) for chunk in order]
    warm_up = min(len(order), 2 * (size - stage - 1) + (size - 1) * size)
    held = most = sum(layers[:warm_up])
    for ahead, behind in zip(layers[warm_up:], back, strict=False):
        most = max(most, held + ahead)
        held += ahead - behind
    return most


def test_kept_bytes_by_hand() -> None:
    kept = kept_bytes(problem(), stages(pipeline_parallel=2, recompute_layers_per_stage=(1, 0)))
    assert kept.tolist() == [2 * (4096 + 256), 1 * 2 * 4096]


def test_kept_bytes_of_full_recomputation_are_the_inputs() -> None:
    assert kept_bytes(problem(), stages(recompute_layers_per_stage=(4,))).tolist() == [4 * 256]


def test_pipeline_buffer_bytes_by_hand() -> None:
    assert pipeline_buffer_bytes(problem(), stages(pipeline_parallel=2)).tolist() == [2 * 256, 256]


def test_pipeline_buffer_bytes_are_zero_for_one_stage() -> None:
    assert pipeline_buffer_bytes(problem(), stages()).tolist() == [0]


def test_pipeline_buffer_bytes_of_interleaved_chunks_are_one_output_each() -> None:
    chunked = stages(pipeline_parallel=2, schedule="interleaved", num_model_chunks=2)
    # 2.5 and 1.5 whole stages in flight are 5 and 3 chunks.
    assert pipeline_buffer_bytes(problem(), chunked).tolist() == [5 * 256, 3 * 256]


def test_layer_backward_bytes_are_one_recomputed_layer_and_its_gradients() -> None:
    half = stages(pipeline_parallel=2, recompute_layers_per_stage=(2, 0))
    assert layer_backward_bytes(problem(), half).tolist() == [4096, 0]
    asked = problem(stack={"activations": {"backward_elements": 8.0}})
    assert layer_backward_bytes(asked, half).tolist() == [4096 + 8 * 256, 8 * 256]
    assert layer_backward_bytes(asked, stages(tensor_parallel=2)).tolist() == [8 * 128]


def test_first_layer_bytes_by_hand() -> None:
    kept = first_layer_bytes(problem(), stages(pipeline_parallel=2, recompute_layers_per_stage=(1, 0)))
    assert kept.tolist() == [256, 4096]


def test_mask_bytes_by_hand() -> None:
    asked = problem(stack={"activations": {"mask_elements": 1.0, "causal_buffer_bytes": 1.0}})
    # Two and one micro batches of 3 sequences with 8 * 8 pairs of 2 bytes; 64 bytes of each of 2 layers.
    piped = stages(pipeline_parallel=2, micro_batch=3)
    assert mask_bytes(asked, piped).tolist() == [2 * 3 * 64 * 2 + 2 * 64, 3 * 64 * 2 + 2 * 64]
    assert mask_bytes(problem(), piped).tolist() == [0, 0]


def test_layer_activation_bytes_keep_gathered_inputs_under_sequence_parallelism() -> None:
    asked = problem(stack={"activations": {"gathered_elements": 2.0}})
    assert layer_activation_bytes(asked, stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [256 * (8 + 2)]
    assert layer_activation_bytes(asked, stages(tensor_parallel=2)).tolist() == [256 * (4 + 6)]


@pytest.mark.parametrize(
    ("divided", "share"),
    [
        ({"tensor_mode": "2d", "tensor_parallel": 4}, 4),
        ({"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}, 8),
    ],
)
def test_layer_activation_bytes_are_divided_by_all_ranks_of_a_grid(divided: Any, share: int) -> None:
    assert layer_activation_bytes(problem(), stages(micro_batch=4, **divided)).tolist() == [4 * 4096 / share]


def test_layer_activation_bytes_in_3d_keep_operands_as_gathered() -> None:
    cube = stages(tensor_mode="3d", tensor_parallel=8, micro_batch=4)
    own = 4 * 4096 / 8
    # 8 tokens a rank: inputs 8 * (3 * 16 + 64) elements, half of which are its own; matrices 3072 / 4.
    assert gathered_operand_bytes(problem(), cube).tolist() == [2 * (8 * 112 / 2 + 768)]
    assert layer_activation_bytes(problem(), cube).tolist() == [own + 2 * (448 + 768)]


def test_gathered_operand_bytes_exist_in_3d_alone() -> None:
    assert gathered_operand_bytes(problem(), stages(tensor_mode="2d", tensor_parallel=4)).tolist() == [0]


def test_boundary_bytes_in_a_grid() -> None:
    assert boundary_bytes(problem(), stages(tensor_mode="2d", tensor_parallel=4, micro_batch=2)).tolist() == [128]


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


def test_logits_bytes_in_a_grid() -> None:
    # 8 * 4 / 2 tokens and half of 128 rows (padded to 16 * 4) a rank, 8 bytes each.
    flat = stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4)
    assert logits_bytes(problem(), flat).tolist() == [16 * 64 * 8]
    # 8 tokens a rank; in fp32 logits and the product before its scatter, 4 + 4 * 2, are as much as the loss.
    cube = stages(tensor_mode="3d", tensor_parallel=8, micro_batch=4)
    assert logits_bytes(problem(), cube).tolist() == [8 * 64 * 8]


def test_logits_bytes_of_another_loss_under_zero_3() -> None:
    asked = problem(stack={"sharded": {"logits_bytes": 14.0}})
    assert logits_bytes(asked, stages(data_parallel=2, zero_stage=3)).tolist() == [8 * 128 * 14]


def test_pipeline_buffer_bytes_that_a_stack_holds_beyond_its_schedule() -> None:
    extra = problem(stack={"activations": {"pipeline_elements": 1.0, "pipeline_extra_microbatches": 1.0}})
    three = stages(pipeline_parallel=3, layers_per_stage=(2, 1, 1))
    assert pipeline_buffer_bytes(extra, three).tolist() == [4 * 256, 3 * 256, 256]
    few = stages(pipeline_parallel=3, layers_per_stage=(2, 1, 1), num_microbatches=2)
    assert pipeline_buffer_bytes(extra, few).tolist() == [2 * 256, 2 * 256, 256]


def test_summa_buffer_bytes_by_hand() -> None:
    flat = stages(tensor_mode="2d", tensor_parallel=4, micro_batch=4)
    layer, head = summa_buffer_bytes(problem(), flat)
    # 16 tokens a rank, two-byte elements: 16 * 64 / 2 and 64 * 16 / 4, then 16 * 128 / 2 and 128 * 16 / 4, two each.
    assert layer.tolist() == [2 * 2 * (512 + 256)]
    assert head.tolist() == [2 * 2 * (1024 + 512)]


def test_summa_buffer_bytes_exist_in_flat_grids_alone() -> None:
    for other in ({}, {"tensor_mode": "3d", "tensor_parallel": 8, "micro_batch": 4}):
        layer, head = summa_buffer_bytes(problem(), stages(**other))
        assert (layer.tolist(), head.tolist()) == ([0], [0])


def test_layer_activation_bytes_include_softmax_statistics_where_no_scores_are_kept() -> None:
    # 8 tokens with 4 heads, 4 bytes each.
    fused = {"activations": {"softmax_bytes": 4.0}}
    assert layer_activation_bytes(problem(stack=fused), stages()).tolist() == [4096 + 8 * 4 * 4]
    assert layer_activation_bytes(problem(stack=fused), stages(tensor_parallel=2)).tolist() == [2560 + 8 * 2 * 4]
    scores = {"activations": {"softmax_bytes": 4.0, "attention": "materialised"}}
    assert layer_activation_bytes(problem(stack=scores), stages()) == layer_activation_bytes(
        problem(stack=MATERIALISED), stages()
    )


def test_gathered_input_bytes_are_whole_under_sequence_parallelism_alone() -> None:
    asked = problem(stack={"activations": {"gathered_elements": 2.0}})
    assert gathered_input_bytes(asked, stages(tensor_parallel=2, sequence_parallel=True)).tolist() == [512]
    assert gathered_input_bytes(asked, stages(tensor_parallel=2)).tolist() == [0]


def test_outliving_bytes_by_hand() -> None:
    asked = problem(stack={"activations": {"gathered_elements": 2.0, "gathered_outlive_backward": True}})
    split = {"tensor_parallel": 2, "sequence_parallel": True}
    # The micro batch before in the next forward, four layers; all but the first when a backward ends.
    late, ended = outliving_bytes(asked, stages(**split))
    assert (late.tolist(), ended.tolist()) == ([4 * 512], [3 * 512])
    # Two stages: each has one micro batch more than it holds, of its two layers.
    late, ended = outliving_bytes(asked, stages(pipeline_parallel=2, **split))
    assert (late.tolist(), ended.tolist()) == ([2 * 512] * 2, [512] * 2)


def test_outliving_bytes_need_a_micro_batch_before_and_layers_that_do_not_recompute() -> None:
    asked = problem(stack={"activations": {"gathered_elements": 2.0, "gathered_outlive_backward": True}})
    split = {"tensor_parallel": 2, "sequence_parallel": True}
    late, ended = outliving_bytes(asked, stages(num_microbatches=1, micro_batch=8, **split))
    assert (late.tolist(), ended.tolist()) == ([0], [3 * 8 * 512])
    late, ended = outliving_bytes(asked, stages(recompute_layers_per_stage=(4,), **split))
    assert (late.tolist(), ended.tolist()) == ([0], [0])


def test_outliving_bytes_are_none_where_tensors_are_saved() -> None:
    asked = problem(stack={"activations": {"gathered_elements": 2.0}})
    late, ended = outliving_bytes(asked, stages(tensor_parallel=2, sequence_parallel=True))
    assert (late.tolist(), ended.tolist()) == ([0], [0])


def test_layer_backward_bytes_have_gradients_that_every_rank_holds_whole() -> None:
    asked = problem(stack={"activations": {"backward_elements": 8.0, "backward_replicated_elements": 4.0}})
    assert layer_backward_bytes(asked, stages(tensor_parallel=2)).tolist() == [256 * (4 + 4)]


def test_pipeline_buffer_bytes_are_divided_where_ranks_hold_their_part() -> None:
    parts = problem(stack={"activations": {"pipeline_divided": True}})
    whole = pipeline_buffer_bytes(problem(), stages(tensor_parallel=2, pipeline_parallel=2))
    assert pipeline_buffer_bytes(parts, stages(tensor_parallel=2, pipeline_parallel=2)).tolist() == (whole / 2).tolist()


def test_exchanged_bytes_are_attention_output_of_a_ranks_tokens() -> None:
    assert exchanged_bytes(problem(), stages(sequence_parallel_degree=2)).tolist() == [4 * 16 * 2]
    assert exchanged_bytes(problem(), stages()).tolist() == [0.0]


def test_gather_buffer_bytes_are_whole_hidden_states() -> None:
    buffers = problem(stack={"activations": {"gather_buffers": 3.0}})
    in_slices = stages(tensor_parallel=2, sequence_parallel=True)
    assert gather_buffer_bytes(buffers, in_slices).tolist() == [3 * 256]
    assert gather_buffer_bytes(buffers, stages(tensor_parallel=2)).tolist() == [0.0]
    assert stage_memory(buffers, in_slices).phases["forward"]["gather_buffers"].tolist() == [3 * 256]
