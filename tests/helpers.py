"""Specs, problems and layouts with round numbers, so that tests can do their arithmetic by hand."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from planner.layouts.layout import Layout
from planner.layouts.problem import Problem
from planner.layouts.stages import StageColumns, stages_of_layout
from planner.specs import (
    ActivationSpec,
    AttentionSpec,
    EfficiencySpec,
    ErrorSpec,
    ExpertsSpec,
    HardwareSpec,
    HostSpec,
    LinkSpec,
    MlpSpec,
    ModelSpec,
    NetworkSpec,
    NormSpec,
    OverlapSpec,
    PositionSpec,
    StackSpec,
    StateBytesSpec,
    TrafficSpec,
    ZeroTrafficSpec,
)
from planner.specs.units import Bytes, BytesPerSecond, FlopsPerSecond, Seconds

Struct = TypeVar("Struct", bound=msgspec.Struct)


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Run = Callable[..., Outcome]


def changed(struct: Struct, **overrides: Any) -> Struct:
    """``struct`` with other fields; a dict changes fields of a nested struct."""
    for name, value in overrides.items():
        current = getattr(struct, name)
        if isinstance(value, dict) and isinstance(current, msgspec.Struct):
            overrides[name] = changed(current, **value)
    return msgspec.structs.replace(struct, **overrides)


def tiny_model(**overrides: Any) -> ModelSpec:
    """4 layers, hidden 16, 4 heads, feed-forward 64, vocabulary 128, 8 positions, no dropout."""
    model = ModelSpec(
        name="tiny",
        title="Tiny",
        num_layers=4,
        hidden_size=16,
        num_heads=4,
        ffn_hidden_size=64,
        vocab_size=128,
        max_seq_len=8,
        tied_embeddings=True,
        dropout=0.0,
        seq_len=8,
        global_batch=8,
        precision="bf16",
        sources={},
    )
    return changed(model, **overrides)


def tiny_llama(**overrides: Any) -> ModelSpec:
    """The tiny model with Llama's parts: 2 heads of keys, a gated feed-forward of 32."""
    model = changed(
        tiny_model(),
        ffn_hidden_size=32,
        tied_embeddings=False,
        attention=AttentionSpec(kv_heads=2, qkv_bias=False, output_bias=False),
        positions=PositionSpec(kind="rotary"),
        mlp=MlpSpec(gated=True, activation="silu", bias=False),
        norm=NormSpec(kind="rmsnorm"),
    )
    return changed(model, **overrides)


def tiny_mixtral(**overrides: Any) -> ModelSpec:
    """The tiny Llama with 4 experts of 8 in the place of its feed-forward part, of which a token passes 2."""
    model = changed(tiny_llama(), experts=ExpertsSpec(count=4, top_k=2, ffn_hidden_size=8, fullest=1.0))
    return changed(model, **overrides)


def expert_problem(
    *, experts: dict[str, Any] | None = None, stack: dict[str, Any] | None = None, **overrides: Any
) -> Problem:
    """The tiny Mixtral on the tiny stack, which divides its experts; ``experts`` overrides how."""
    model = overrides.pop("model", tiny_mixtral())
    own = {"families": ("mixtral",), "experts": {"families": ("mixtral",), "zero_stages": (0, 1), **(experts or {})}}
    return changed(problem(stack={**own, **(stack or {})}, **overrides), model=model)


def tiny_hardware(**overrides: Any) -> HardwareSpec:
    """1e12 FLOP/s at half efficiency, 1e9 B/s of memory at half, 1e9 B/s in a node of 4, 1e8 B/s between."""
    hardware = HardwareSpec(
        name="tiny-gpu",
        title="Tiny GPU",
        device="cuda",
        device_names=("Tiny",),
        memory_bytes=Bytes(10_000_000),
        context_bytes=Bytes(1000),
        communicator_bytes=Bytes(100),
        memory_bandwidth_bytes_per_s=BytesPerSecond(1e9),
        kernel_launch_s=Seconds(0),
        devices_per_node=4,
        peak_flops_per_s={"fp16": FlopsPerSecond(1e12), "bf16": FlopsPerSecond(1e12), "fp32": FlopsPerSecond(5e11)},
        efficiency=EfficiencySpec(matmul=((1.0, 0.5),), memory=0.5),
        node_link=LinkSpec(
            kind="link", bandwidth_bytes_per_s=BytesPerSecond(2e9), latency_s=Seconds(1e-6), efficiency=0.5
        ),
        network=NetworkSpec(
            kind="net",
            nics_per_node=4,
            bandwidth_bytes_per_s=BytesPerSecond(2e8),
            latency_s=Seconds(1e-5),
            efficiency=0.5,
            oversubscription=1.0,
        ),
        host=HostSpec(
            memory_bytes=Bytes(10**9),
            memory_bandwidth_bytes_per_s=BytesPerSecond(4e9),
            device_bandwidth_bytes_per_s=BytesPerSecond(5e8),
            nvme_capacity_bytes=Bytes(10**12),
            nvme_read_bytes_per_s=BytesPerSecond(1e8),
            nvme_write_bytes_per_s=BytesPerSecond(1e8),
        ),
        sources={},
    )
    return changed(hardware, **overrides)


def tiny_stack(**overrides: Any) -> StackSpec:
    """A stack that executes 1D, every schedule, ZeRO 0 to 2, offload and sequence parallelism."""
    stack = StackSpec(
        name="tiny-stack",
        title="Tiny stack",
        version="1",
        tensor_modes=("none", "1d"),
        schedules=("none", "1f1b", "interleaved"),
        zero_stages=(0, 1, 2),
        zero_stages_with_pipeline=(0, 1),
        zero_precisions=("fp16", "bf16"),
        zero_stages_with_accumulation=(0, 1),
        offload_tiers=("none", "cpu"),
        offload_optimizer_fractions=(0.0, 1.0),
        zero3_offload_fractions=(0.0, 0.5, 1.0),
        sequence_parallel=True,
        recompute="all-or-nothing",
        uneven_stages=True,
        vocab_multiple=16,
        mixed_precision=StateBytesSpec(
            weight=2.0, gradient=2.0, master=4.0, moments=8.0, step_gradient=2.0, zero_step_gradient=4.0, ddp_bucket=2.0
        ),
        full_precision=StateBytesSpec(
            weight=4.0, gradient=4.0, master=0.0, moments=8.0, step_gradient=0.0, zero_step_gradient=0.0, ddp_bucket=4.0
        ),
        activations=ActivationSpec(
            replicated_elements=4.0,
            sharded_elements=12.0,
            dropout_mask_bytes=2.0,
            attention="flash",
            score_elements=2.0,
            score_mask_bytes=1.0,
            pipeline_elements=1.0,
            logits_mixed_bytes=12.0,
            logits_full_bytes=16.0,
            split_logits_mixed_bytes=12.0,
            split_logits_full_bytes=16.0,
        ),
        traffic=TrafficSpec(
            replicated_elements=10.0, sharded_elements=20.0, kernels=5.0, loss_passes=10.0, optimizer_bytes=40.0
        ),
        overlap=OverlapSpec(data_parallel=0.5, tensor_parallel=0.5),
        zero_traffic=ZeroTrafficSpec(stage0=2.0, stage1=3.0, stage2=2.0),
        zero_bucket_bytes=Bytes(1000),
        offload_copy_bandwidth_bytes_per_s=BytesPerSecond(1e9),
        fragmentation=0.0,
        errors={"all": ErrorSpec(memory=0.0, step_time=0.0, runs=1)},
        sources={},
    )
    return changed(stack, **overrides)


def problem(
    *,
    model: dict[str, Any] | None = None,
    hardware: dict[str, Any] | None = None,
    stack: dict[str, Any] | None = None,
    **overrides: Any,
) -> Problem:
    """The tiny specs on 4 devices of one node, with 8 sequences of 8 tokens in bf16."""
    base = Problem(
        model=tiny_model(**(model or {})),
        hardware=tiny_hardware(**(hardware or {})),
        stack=tiny_stack(**(stack or {})),
        num_devices=4,
        devices_per_node=4,
        global_batch=8,
        # No room for errors, so that memory can be worked out by hand.
        confidence=0.0 if overrides.get("reserve") is None else None,
        seq_len=8,
        precision="bf16",
    )
    return changed(base, **overrides)


def layout(**overrides: Any) -> Layout:
    """One device, one sequence at a time, 8 of them; mode, schedule and layers follow from the degrees."""
    stages = overrides.get("pipeline_parallel", 1)
    layers = overrides.get("layers_per_stage", (4 // stages,) * stages)
    fields: dict[str, Any] = {
        "tensor_mode": "1d" if overrides.get("tensor_parallel", 1) > 1 else "none",
        "pipeline_parallel": stages,
        "num_microbatches": 8,
        "schedule": "1f1b" if stages > 1 else "none",
        "layers_per_stage": layers,
        "recompute_layers_per_stage": (0,) * len(layers),
        "precision": "bf16",
    }
    return Layout(**(fields | overrides))


def problem_of(answer: Layout, **overrides: Any) -> Problem:
    """The problem that ``answer`` is a layout of: its devices, its batch, its precision."""
    asked = {"num_devices": answer.num_devices, "global_batch": answer.global_batch, "precision": answer.precision}
    return problem(**(asked | overrides))


def stages(**overrides: Any) -> StageColumns:
    """The stages of :func:`layout` with these overrides."""
    return stages_of_layout(layout(**overrides))


def slow_hardware(**overrides: Any) -> dict[str, Any]:
    """Overrides that stretch every time to milliseconds and seconds, so that whole nanoseconds are exact enough."""
    slow = {
        "peak_flops_per_s": dict.fromkeys(("fp16", "bf16", "fp32"), FlopsPerSecond(1e7)),
        "memory_bandwidth_bytes_per_s": BytesPerSecond(1e6),
        "node_link": {"bandwidth_bytes_per_s": BytesPerSecond(1e6), "latency_s": Seconds(1e-3)},
        "network": {"bandwidth_bytes_per_s": BytesPerSecond(1e5), "latency_s": Seconds(1e-2)},
        "host": {
            "memory_bandwidth_bytes_per_s": BytesPerSecond(1e6),
            "device_bandwidth_bytes_per_s": BytesPerSecond(1e5),
        },
    }
    return slow | overrides
