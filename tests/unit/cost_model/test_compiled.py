"""Compiled blocks, loss and update by hand: which layouts have them, and the counts that hold there."""

from typing import Any

import msgspec
import numpy as np
import pytest

from planner.cost_model.activations import layer_activation_bytes, logits_bytes
from planner.cost_model.compute import element_wise_seconds, layer_seconds, loss_seconds
from planner.cost_model.states import bucket_bytes, state_bytes, step_buffers, step_gradient_bytes
from planner.cost_model.update import optimizer_seconds
from planner.layouts.compilation import are_compiled, in_one_pass, may_recompute_pointwise, shards_itself
from planner.layouts.layout import Offload
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns
from planner.specs import StackSpec
from planner.specs.files import load_spec
from planner.specs.stack import CompiledSpec
from planner.specs.units import Bytes
from tests.helpers import changed, problem, stages

COUNTS: dict[str, Any] = {
    "families": ("gpt2",),
    "start_s": 9.0,
    "one_pass": ("bf16",),
    "one_pass_bytes": 28.0,
    "ddp_alone": False,
    "activations": {"logits_mixed_bytes": 2.0, "loss_chunk_tokens": 4, "sharded_elements": 5.0},
    "traffic": {"replicated_elements": 1.0, "loss_passes": 3.0, "layer_fixed": "2 us"},
}


def asked(*, compiled: bool = True, **counts: Any) -> Problem:
    plain = msgspec.structs.replace(problem(), precision="bf16")
    stack = msgspec.structs.replace(plain.stack, compiled=CompiledSpec(**COUNTS | counts))
    return msgspec.structs.replace(plain, stack=stack, compiled=compiled)


def both(formula: Any, rows: StageColumns) -> tuple[float, float]:
    """What a formula says of a compiled problem and of one that is not."""
    return tuple(float(np.ravel(formula(asked(compiled=one), rows))[0]) for one in (True, False))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"tensor_parallel": 2}, True),
        ({"data_parallel": 2, "zero_stage": 2}, True),
        ({"data_parallel": 2, "zero_stage": 3}, False),
        ({"tensor_mode": "2d", "tensor_parallel": 4}, False),
    ],
)
def test_grids_and_zero_3_are_not_compiled(fields: dict[str, Any], expected: bool) -> None:
    rows = stages(**fields)
    assert are_compiled(asked(), rows.layouts).tolist() == [expected]
    assert not are_compiled(asked(compiled=False), rows.layouts).any()
    assert not are_compiled(asked(families=("llama",)), rows.layouts).any()


def test_counts_of_compiled_blocks_take_the_place_of_the_others() -> None:
    compiled = asked()
    own = compiled.with_compiled_counts
    assert not own.compiled
    assert own.stack.traffic.replicated_elements == 1.0
    assert float(own.stack.traffic.layer_fixed_s) == pytest.approx(2e-6)
    layer, plain = (layer_seconds(one, stages()).forward[0] for one in (compiled, asked(compiled=False)))
    moved = (element_wise_seconds(one, stages()).forward[0] for one in (own, asked(compiled=False)))
    assert layer - plain == pytest.approx(np.subtract(*moved) + 2e-6)
    grid = stages(tensor_mode="2d", tensor_parallel=4)
    assert layer_seconds(compiled, grid).forward == layer_seconds(asked(compiled=False), grid).forward


def test_logits_by_chunks_with_the_gradients_that_they_add_to() -> None:
    # 8 tokens by 4, 128 columns and 16 hidden units, all of two bytes.
    expected = 4 * 128 * 2 + (8 + 128) * 16 * 2
    assert logits_bytes(asked(), stages()).tolist() == [expected]
    assert loss_seconds(asked(), stages())[0] == pytest.approx(8 * 128 * 3 * 2 / 5e8)
    kept, plain = both(layer_activation_bytes, stages())
    assert kept < plain


def test_an_update_in_one_pass_moves_less_and_casts_nothing() -> None:
    moved, plain = both(optimizer_seconds, stages())
    assert moved < plain
    assert both(step_gradient_bytes, stages())[0] == 0
    assert both(bucket_bytes, stages())[0] == 0
    # Without DDP's copy of 15328 gradients of two bytes.
    assert both(bucket_bytes, stages(data_parallel=2)) == (0, 30656)
    half = msgspec.structs.replace(asked(), precision="fp16")
    assert step_gradient_bytes(half, stages())[0] == step_gradient_bytes(asked(compiled=False), stages())[0]


def test_zero_in_fp16_takes_the_host_what_it_takes_without_and_reads_gradients_once_more() -> None:
    half = msgspec.structs.replace(asked(), precision="fp16")
    costs = {"overflow_tensor_host_s": 1.0, "zero_tensor_host_s": 1.0, "tensor_host_s": 1e-9, "optimizer_bytes": 60.0}
    half = msgspec.structs.replace(half, stack=changed(half.stack, traffic=costs))
    rows = stages(data_parallel=2, zero_stage=1)
    assert optimizer_seconds(half, rows).tolist() == pytest.approx([7664 * 62 / 5e8])
    slow = msgspec.structs.replace(half, stack=changed(half.stack, traffic={"tensor_host_s": 1.0}))
    # 52 tensors, whose updates on the device hide as long as they take of that.
    assert optimizer_seconds(slow, rows).tolist() == pytest.approx([52])


@pytest.mark.parametrize(("zero_stage", "buckets"), [(1, 0), (2, 8560)])
def test_zero_updates_in_one_pass_and_in_place(zero_stage: int, buckets: int) -> None:
    traffic = {"zero_gradient_bytes": 30.0, "zero_tensor_host_s": 1.0, "optimizer_bytes": 60.0}
    rows = stages(data_parallel=2, zero_stage=zero_stage)
    one, plain = (
        msgspec.structs.replace(own, stack=changed(own.stack, traffic=traffic, zero_bucket_bytes=Bytes(1000)))
        for own in (asked(), asked(compiled=False))
    )
    # Half of 15328 parameters, each moved once; 4 layers of 12 tensors and 4 outside of them. Under ZeRO 2 gradients of
    # 3280 parameters of a layer and of two buckets.
    assert optimizer_seconds(one, rows).tolist() == pytest.approx([7664 * 28 / 5e8])
    assert optimizer_seconds(plain, rows).tolist() == pytest.approx([(7664 * 60 + 15328 * 30) / 5e8 + 52])
    assert [bucket_bytes(own, rows).tolist() for own in (one, plain)] == [[buckets], [2000]]
    assert step_buffers(one, rows)[1].tolist() == [0]
    assert step_buffers(plain, rows)[1].tolist() == [2000]
    assert step_gradient_bytes(one, rows).tolist() == [0]


def test_a_lower_half_takes_the_place_of_master_weights() -> None:
    halves, whole = asked(one_pass_master_bytes=2.0), asked()
    for fields, share in (({}, 0.5), ({"data_parallel": 2, "zero_stage": 1}, 0.5), ({"zero_stage": 1}, 1.0)):
        masters = [state_bytes(one, stages(**fields))["master_weights"][0] for one in (halves, whole)]
        assert masters[0] == share * masters[1] > 0


def test_what_backward_makes_again_is_not_kept_and_is_written_once_more() -> None:
    """Of GPT-2 the outputs of two norms and of GELU: 2 h + f; of 16 hidden units f is 64, of 8 tokens 2 bytes each."""
    keeping, again = stages(), stages(recompute_pointwise=True)
    elements = 8 * (2 * 16 + 64)
    assert (layer_activation_bytes(asked(), keeping) - layer_activation_bytes(asked(), again)).tolist() == [
        elements * 2
    ]
    slower = [element_wise_seconds(asked(), one).backward[0] for one in (again, keeping)]
    assert slower[0] - slower[1] == pytest.approx(elements * 2 / 5e8)
    assert element_wise_seconds(asked(), again).forward == element_wise_seconds(asked(), keeping).forward


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"data_parallel": 2, "zero_stage": 1}, True),
        ({"data_parallel": 2, "zero_stage": 2, "num_microbatches": 2}, True),
        ({"sequence_parallel_degree": 2, "zero_stage": 1}, True),
        ({"data_parallel": 2, "pipeline_parallel": 2, "zero_stage": 1}, True),
        ({"zero_stage": 1}, False),
        ({"data_parallel": 2, "zero_stage": 3}, False),
        ({"data_parallel": 2}, False),
        ({"data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu")}, False),
    ],
)
def test_which_layouts_shard_by_themselves(fields: dict[str, Any], expected: bool) -> None:
    columns = stages(**fields).layouts
    assert shards_itself(asked(), columns).all() == expected
    assert in_one_pass(asked(), columns).all() == (expected or columns.zero_stage[0] == 0)
    assert not in_one_pass(msgspec.structs.replace(asked(), precision="fp16"), columns).any()
    assert not shards_itself(asked(compiled=False), columns).any()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, True),
        ({"data_parallel": 2, "zero_stage": 2}, True),
        ({"pipeline_parallel": 2}, True),
        ({"tensor_parallel": 2}, False),
        ({"sequence_parallel_degree": 2}, False),
        ({"data_parallel": 2, "zero_stage": 3}, False),
    ],
)
def test_what_is_compiled_whole_may_make_results_again(fields: dict[str, Any], *, expected: bool) -> None:
    columns = stages(**fields).layouts
    assert set(may_recompute_pointwise(asked(recomputes_pointwise=True), columns).tolist()) == {expected}
    assert not may_recompute_pointwise(asked(), columns).any()
    assert not may_recompute_pointwise(asked(compiled=False, recomputes_pointwise=True), columns).any()


def test_the_built_in_stack_keeps_less_when_compiled() -> None:
    stack = load_spec("colossalai", StackSpec)
    own = stack.as_compiled()
    assert own.activations.loss_chunk_tokens > 0
    assert own.traffic.loss_passes < stack.traffic.loss_passes
    assert own.compiled is None


@pytest.mark.parametrize("counts", [{"traffic": {"loss_pases": 3.0}}, {"traffic": {"loss_passes": -1.0}}])
def test_counts_that_a_stack_does_not_have_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"loss_pases|Expected"):
        asked(**counts)
