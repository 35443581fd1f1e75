"""Plans that the runtime refuses, each for its own rule."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.diagnostics import ExitCode, PlanError
from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from runtime.engines.support import check_supported

HARDWARE = {"device": "cuda"}

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("TP023", {"tensor_mode": "2d", "tensor_parallel": 4, "micro_batch": 1}),
    ("TP025", {"tensor_mode": "2d", "tensor_parallel": 4, "zero_stage": 1, "precision": "bf16"}),
    ("TP026", {"tensor_mode": "2d", "tensor_parallel": 4, "pipeline_parallel": 2, "schedule": "interleaved"}),
    ("TP010", {"tensor_mode": "none", "tensor_parallel": 2}),
    ("SP001", {"sequence_parallel": True}),
    ("SP002", {"tensor_parallel": 3, "sequence_parallel": True}),
    ("PP003", {"pipeline_parallel": 2, "schedule": "interleaved"}),
    ("PP005", {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2, "num_microbatches": 3}),
    ("PP006", {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2, "model": {"num_layers": 6}}),
    ("PP003", {"pipeline_parallel": 2, "num_model_chunks": 2}),
    ("PP004", {"pipeline_parallel": 4, "num_microbatches": 2}),
    ("TP001", {"tensor_parallel": 3}),
    ("TP005", {"tensor_parallel": 4, "model": {"vocab_size": 130}}),
    ("PP011", {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2, "layers_per_stage": (3, 1)}),
    ("PP010", {"pipeline_parallel": 2, "layers_per_stage": (4, 0)}),
    ("RC001", {"recompute_layers_per_stage": (5,)}),
    ("SEQ001", {"model": {"max_seq_len": 8, "seq_len": 8}}),
    ("ZER004", {"zero_stage": 3, "tensor_parallel": 2, "precision": "bf16", "hardware": HARDWARE}),
    ("ZER005", {"zero_stage": 3, "data_parallel": 2, "precision": "bf16"}),
    ("STK005", {"zero_stage": 2, "precision": "bf16", "offload": Offload(optimizer=0.5, tier="cpu")}),
    ("OFF004", {"zero_stage": 3, "precision": "bf16", "offload": Offload(optimizer=0.5, parameters=1.0, tier="cpu")}),
    ("ZER001", {"zero_stage": 2, "pipeline_parallel": 2, "precision": "bf16"}),
    ("ZER002", {"zero_stage": 1, "data_parallel": 2}),
    ("STK005", {"offload": Offload(optimizer=0.5, tier="cpu")}),
    ("OFF003", {"offload": Offload(optimizer=1.0, tier="cpu")}),
    ("STK006", {"offload": Offload(parameters=1.0)}),
]


@pytest.mark.parametrize(("rule", "fields"), REFUSED, ids=[rule for rule, _ in REFUSED])
def test_a_layout_that_cannot_be_executed_is_refused(
    rule: str, fields: dict[str, Any], plan: Callable[..., Plan]
) -> None:
    with pytest.raises(PlanError) as refusal:
        check_supported(plan(**fields))
    assert rule in [diagnostic.rule for diagnostic in refusal.value.diagnostics]
    assert refusal.value.exit_code == ExitCode.NEGATIVE


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 2},
        {"tensor_mode": "2d", "tensor_parallel": 4, "pipeline_parallel": 2, "recompute_layers_per_stage": (1, 0)},
        {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2, "data_parallel": 2, "precision": "fp16"},
        {"tensor_mode": "3d", "tensor_parallel": 8, "num_microbatches": 2},
        {"zero_stage": 2, "data_parallel": 2, "precision": "bf16", "num_microbatches": 2},
        {"zero_stage": 1, "precision": "fp16", "offload": Offload(optimizer=1.0, tier="cpu")},
        {"pipeline_parallel": 2, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (3, 1)},
        {"pipeline_parallel": 2, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (2, 0)},
        {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2},
        {"tensor_parallel": 2, "sequence_parallel": True},
    ],
)
def test_a_layout_that_can_be_executed_passes(fields: dict[str, Any], plan: Callable[..., Plan]) -> None:
    check_supported(plan(**fields))


def test_what_the_stack_of_a_plan_claims_does_not_count(plan: Callable[..., Plan]) -> None:
    claims = {"zero_stages_with_pipeline": [0, 1, 2]}
    with pytest.raises(PlanError) as refusal:
        check_supported(plan(stack=claims, zero_stage=2, pipeline_parallel=2, precision="bf16"))
    assert [diagnostic.rule for diagnostic in refusal.value.diagnostics] == ["ZER001"]
