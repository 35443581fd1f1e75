"""Shrinking keeps what kind of layout a plan has, keeps every rule, and says what it changed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.diagnostics import ExitCode, PlanError
from planner.launch.shrink import Shrunken, shrink
from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from planner.rules import violations
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.runtime.conftest import make_plan
from tests.runtime.family_models import MIXTRAL

CARD = {"device": "cuda", "devices_per_node": 8}


def large(**fields: Any) -> Plan:
    """A plan of a model that no test would train."""
    layers = sum(fields.get("layers_per_stage", (96,)))
    model = {
        "num_layers": layers,
        "hidden_size": 12288,
        "num_heads": 96,
        "ffn_hidden_size": 49152,
        "vocab_size": 50257,
        "max_seq_len": 2048,
        "dropout": 0.1,
        "tied_embeddings": False,
    }
    batch = fields.pop("global_batch", 1536)
    return make_plan(model=model, hardware=CARD, global_batch=batch, **fields)


def shrunken(plan: Plan, max_processes: int = 8, *, on_gpus: bool = False) -> Shrunken:
    small = shrink(plan, max_processes=max_processes, on_gpus=on_gpus)
    problem, layout = small.plan.problem, small.plan.layout
    assert violations(problem, layout) == []
    assert layout.num_devices <= max_processes
    assert len(small.plan.predicted.stages) == layout.pipeline_parallel, "a plan that is read is asked that"
    assert problem.model.hidden_size <= 512
    assert problem.model.dropout == 0
    assert not problem.model.tied_embeddings
    assert problem.global_batch == layout.global_batch
    for field in ("tensor_mode", "zero_stage", "sequence_parallel", "schedule", "num_model_chunks", "offload"):
        assert getattr(layout, field) == getattr(plan.layout, field)
    for field in ("tensor_parallel", "tensor_depth", "pipeline_parallel", "data_parallel", "num_microbatches"):
        assert (getattr(layout, field) > 1) == (getattr(plan.layout, field) > 1)
    return small


def test_what_fits_keeps_its_degrees() -> None:
    small = shrunken(large(tensor_parallel=2, pipeline_parallel=4, num_microbatches=8, layers_per_stage=(24,) * 4))
    layout = small.plan.layout
    assert (layout.tensor_parallel, layout.pipeline_parallel, layout.data_parallel) == (2, 4, 1)
    assert small.changes == ()
    assert layout.precision == "fp32"


def test_data_parallelism_shrinks_before_the_pipeline_and_that_before_tensor_parallelism() -> None:
    def degrees(max_processes: int, **fields: Any) -> tuple[int, int, int]:
        found = shrunken(large(**fields), max_processes).plan.layout
        return found.tensor_parallel, found.pipeline_parallel, found.data_parallel

    two_by_four = {"tensor_parallel": 2, "pipeline_parallel": 4, "layers_per_stage": (24,) * 4, "num_microbatches": 8}
    assert degrees(32, **two_by_four, data_parallel=8) == (2, 4, 4)
    assert degrees(16, **two_by_four, data_parallel=8) == (2, 4, 2)
    assert degrees(8, **two_by_four, data_parallel=8) == (2, 2, 2)
    eight_by_twelve = {"tensor_parallel": 8, "pipeline_parallel": 12, "layers_per_stage": (8,) * 12}
    assert degrees(16, **eight_by_twelve, num_microbatches=24) == (8, 2, 1)
    assert degrees(8, **eight_by_twelve, num_microbatches=24) == (4, 2, 1)
    assert degrees(8, data_parallel=64, num_microbatches=2) == (1, 1, 8)


def test_experts_stay_divided_and_copied() -> None:
    def small(max_processes: int, **fields: Any) -> Plan:
        experts = {"count": 64, "top_k": 6, "ffn_hidden_size": 1408, "load": [1.0] * 64}
        wide = {"num_layers": 4, "hidden_size": 2048, "num_heads": 16, "ffn_hidden_size": 1408, "max_seq_len": 4096}
        model = {**MIXTRAL, **wide, "attention": {"kv_heads": 8, "qkv_bias": False, "output_bias": False}}
        plan = make_plan(model={**model, "experts": experts}, hardware=CARD, global_batch=256, **fields)
        return shrink(plan, max_processes=max_processes, on_gpus=False).plan

    def degrees(plan: Plan) -> tuple[int, int, int]:
        layout = plan.layout
        return layout.data_parallel, layout.expert_parallel, layout.num_devices

    alone = small(8, data_parallel=16, expert_parallel=16)
    assert degrees(alone) == (8, 8, 8)
    assert alone.problem.model.experts is not None
    assert (alone.problem.model.experts.count, alone.problem.model.experts.top_k) == (8, 2)
    assert degrees(small(8, data_parallel=64, expert_parallel=16)) == (8, 2, 8)
    assert degrees(small(8, data_parallel=32, expert_parallel=8, tensor_parallel=2)) == (4, 2, 8)
    with pytest.raises(PlanError) as caught:
        small(4, data_parallel=32, expert_parallel=8, tensor_parallel=2)
    assert "--max-processes 8" in caught.value.diagnostics[0].hint


def test_what_changed_is_said() -> None:
    plan = large(data_parallel=64, num_microbatches=2, zero_stage=2, precision="fp16", layers_per_stage=(96,))
    small = shrunken(plan, 4)
    assert small.changes == ("data parallel 4 instead of 64", "bf16 instead of fp16")


def test_the_precision_of_the_plan_is_kept_where_it_is_asked_for() -> None:
    plan = large(tensor_parallel=4, precision="fp16")
    small = shrink(plan, max_processes=8, on_gpus=False, own_precision=True)
    assert (small.plan.layout.precision, small.plan.problem.precision, small.changes) == ("fp16", "fp16", ())


def test_too_few_processes_for_the_layouts_kinds_of_parallelism() -> None:
    plan = large(
        tensor_mode="2d",
        tensor_parallel=16,
        pipeline_parallel=4,
        data_parallel=2,
        layers_per_stage=(24,) * 4,
        num_microbatches=4,
    )
    with pytest.raises(PlanError) as caught:
        shrink(plan, max_processes=8, on_gpus=False)
    (found,) = caught.value.diagnostics
    assert found.message == "the layout has 128 ranks, and 16 are the fewest that keep its kinds of parallelism"
    assert found.hint == "`--max-processes 16`, or 128 for all its ranks"
    assert caught.value.exit_code == ExitCode.USAGE
    assert shrunken(plan, 16).plan.layout.tensor_parallel == 4


@pytest.mark.parametrize(
    ("mode", "degree", "depth", "least"), [("2d", 16, 1, 4), ("2.5d", 32, 2, 8), ("2.5d", 4, 4, 4), ("3d", 64, 1, 8)]
)
def test_grids_stay_grids(mode: str, degree: int, depth: int, least: int) -> None:
    plan = large(tensor_mode=mode, tensor_parallel=degree, tensor_depth=depth, num_microbatches=2, global_batch=512)
    assert shrunken(plan).plan.layout.tensor_parallel == least


def test_stages_stay_uneven_and_recompute_in_part() -> None:
    plan = large(
        pipeline_parallel=6,
        layers_per_stage=(16, 16, 16, 16, 16, 15),
        num_microbatches=12,
        recompute_layers_per_stage=(8, 8, 4, 0, 0, 0),
        global_batch=96,
    )
    layout = shrunken(plan).plan.layout
    assert layout.layers_per_stage == (3, 3, 3, 3, 3, 2)
    assert layout.recompute_layers_per_stage == (2, 2, 1, 0, 0, 0)
    assert layout.num_microbatches == 7
    two = shrunken(plan, 2).plan.layout
    assert two.layers_per_stage == (2, 2)
    assert two.recompute_layers_per_stage == (1, 1)


@pytest.mark.parametrize(("schedule", "chunks"), [("interleaved", 3), ("zbv", 2)])
def test_schedules_keep_their_chunks_and_rounds(schedule: str, chunks: int) -> None:
    fields: dict[str, Any] = {
        "pipeline_parallel": 4,
        "schedule": schedule,
        "num_model_chunks": chunks,
        "layers_per_stage": (24,) * 4,
    }
    layout = shrunken(large(**fields, num_microbatches=32)).plan.layout
    assert layout.layers_per_stage == (chunks,) * 4
    assert layout.num_microbatches == 8
    assert shrunken(large(**fields, num_microbatches=4)).plan.layout.num_microbatches == 4


def test_chunks_of_gemini_need_a_gpu() -> None:
    plan = large(
        zero_stage=3, data_parallel=16, precision="bf16", num_microbatches=2, offload=Offload(optimizer=0.5, tier="cpu")
    )
    with pytest.raises(PlanError) as caught:
        shrink(plan, max_processes=8, on_gpus=False)
    assert caught.value.exit_code == ExitCode.NEGATIVE
    assert caught.value.diagnostics[0].hint == "`--on-gpus` on a machine with GPUs"
    small = shrunken(plan, 2, on_gpus=True).plan
    assert small.layout.data_parallel == 2
    assert small.problem.hardware.device == "cuda"


LLAMA: dict[str, Any] = {
    "num_heads": 32,
    "attention": {"kv_heads": 8, "qkv_bias": False, "output_bias": False},
    "positions": {"kind": "rotary", "scaling": "llama3", "factor": 8.0, "original_max_seq_len": 8},
    "mlp": {"gated": True, "activation": "silu", "bias": False},
    "norm": {"kind": "rmsnorm"},
}


def small_llama(attention: dict[str, Any] | None = None, **layout: Any) -> Any:
    model = {**LLAMA, "hidden_size": 4096, "attention": LLAMA["attention"] | (attention or {}), "dropout": 0.0}
    small = shrink(make_plan(model=model, **layout), max_processes=8, on_gpus=False).plan.problem
    assert small.model.hidden_size <= 256
    return small


@pytest.mark.parametrize(("degree", "tensor", "kv_heads"), [(1, 1, 2), (2, 1, 2), (2, 2, 4), (4, 1, 4), (8, 1, 8)])
def test_queries_stay_grouped_and_every_rank_has_heads(degree: int, tensor: int, kv_heads: int) -> None:
    model = small_llama(sequence_parallel_degree=degree, tensor_parallel=tensor).model
    assert model.family == "llama"
    assert model.kv_heads == kv_heads
    assert model.num_heads == max(2 * kv_heads, 4)
    assert model.head_size == 8


def test_one_head_of_keys_stays_one() -> None:
    assert small_llama({"kv_heads": 1}).model.kv_heads == 1


def test_scaling_windows_and_odd_heads_stay_what_they_are() -> None:
    model = small_llama().model
    assert (model.positions.scaling, model.positions.factor, model.positions.original_max_seq_len) == ("llama3", 8, 8)
    window = small_llama({"sliding_window": 4, "head_size": 256})
    assert window.model.family == "mistral"
    assert window.model.attention.sliding_window == window.seq_len // 2
    assert window.model.head_size == 16
    wide = small_llama({"sliding_window": 4096, "head_size": 64}).model
    assert wide.attention.sliding_window == 2 * window.seq_len
    assert wide.head_size == 4


def test_sequences_shrink_before_tensor_parallelism_and_after_the_pipeline() -> None:
    def degrees(most: int, **fields: Any) -> tuple[int, int, int, int]:
        plan = make_plan(model={**LLAMA, "hidden_size": 4096}, global_batch=64, num_microbatches=8, **fields)
        layout = shrink(plan, max_processes=most, on_gpus=False).plan.layout
        return (layout.tensor_parallel, layout.sequence_parallel_degree, layout.pipeline_parallel, layout.data_parallel)

    fields = {"tensor_parallel": 2, "sequence_parallel_degree": 4, "pipeline_parallel": 4, "data_parallel": 4}
    assert degrees(128, **fields) == (2, 4, 4, 4)
    assert degrees(64, **fields) == (2, 4, 4, 2)
    assert degrees(32, **fields) == (2, 4, 2, 2)
    assert degrees(16, **fields) == (2, 2, 2, 2)
    with pytest.raises(PlanError):
        degrees(8, **fields)


@pytest.mark.parametrize("on_gpus", [False, True])
def test_pointwise_recomputation_goes_with_compilation(*, on_gpus: bool) -> None:
    plan = large(recompute_pointwise=True)
    spec = CompiledSpec(families=("gpt2",), start_s=Seconds(1.0), recomputes_pointwise=True)
    stack = msgspec.structs.replace(plan.problem.stack, compiled=spec)
    problem = msgspec.structs.replace(plan.problem, stack=stack, compiled=True)
    small = shrunken(msgspec.structs.replace(plan, problem=problem), on_gpus=on_gpus).plan
    assert (small.problem.compiled, small.layout.recompute_pointwise) == (on_gpus, on_gpus)


DEGREES = st.tuples(st.sampled_from([1, 2, 3, 4, 6, 8]), st.sampled_from([1, 2, 3, 8]), st.sampled_from([1, 2, 16]))


@given(
    degrees=DEGREES,
    sequence=st.booleans(),
    rounds=st.integers(1, 4),
    recomputed=st.integers(0, 4),
    most=st.integers(8, 16),
)
def test_every_layout_of_1d_can_be_shrunk(
    degrees: tuple[int, int, int], sequence: bool, rounds: int, recomputed: int, most: int
) -> None:
    tensor, stages, data = degrees
    count = rounds * stages
    plan = large(
        tensor_parallel=tensor,
        pipeline_parallel=stages,
        data_parallel=data,
        sequence_parallel=sequence and tensor > 1,
        num_microbatches=count,
        layers_per_stage=(4,) * stages,
        recompute_layers_per_stage=(recomputed,) * stages,
        global_batch=count * data * 4,
    )
    small = shrunken(plan, most).plan.layout
    share = {0: "none", 4: "all"}.get(recomputed, "some")
    for layers, own in zip(small.layers_per_stage, small.recompute_layers_per_stage, strict=True):
        assert {"none": own == 0, "all": own == layers, "some": 0 < own < layers}[share]
