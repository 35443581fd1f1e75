"""Plans that the runtime refuses, each for its own reason."""

from collections.abc import Callable
from typing import Any

import pytest

from planner.diagnostics import PlanError
from planner.layout import Offload
from planner.plan import Plan
from runtime.support import check_supported

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("1D tensor parallelism, not `2d`", {"tensor_mode": "2d", "tensor_parallel": 4}),
    ("mode `none` with 2", {"tensor_mode": "none", "tensor_parallel": 2}),
    ("sequence parallelism", {"tensor_parallel": 2, "sequence_parallel": True}),
    ("not `interleaved`", {"pipeline_parallel": 2, "schedule": "interleaved"}),
    ("one model chunk", {"pipeline_parallel": 2, "num_model_chunks": 2}),
    ("do not fill 4 pipeline stages", {"pipeline_parallel": 4, "num_microbatches": 2}),
    ("do not divide 4 heads", {"tensor_parallel": 3}),
    ("leaves the last rank without a token", {"tensor_parallel": 4, "model": {"vocab_size": 130}}),
    ("do not put 4 layers on 2 stages", {"pipeline_parallel": 2, "layers_per_stage": (4, 0)}),
    ("recomputes every layer of GPT-2 or none", {"recompute_layers_per_stage": (2,)}),
    ("position table has 8 rows", {"model": {"max_seq_len": 8}}),
    ("ZeRO stage 3 with 1", {"zero_stage": 3, "data_parallel": 2, "precision": "bf16"}),
    ("ZeRO stage 2 with 2", {"zero_stage": 2, "pipeline_parallel": 2, "precision": "bf16"}),
    ("no ZeRO in fp32", {"zero_stage": 1, "data_parallel": 2}),
    ("all optimizer states off the device or none", {"offload": Offload(optimizer=0.5, tier="cpu")}),
    ("to the host, with ZeRO only", {"offload": Offload(optimizer=1.0, tier="cpu")}),
]


@pytest.mark.parametrize(("message", "fields"), REFUSED, ids=[message for message, _ in REFUSED])
def test_a_layout_that_cannot_be_executed_is_refused(
    message: str, fields: dict[str, Any], plan: Callable[..., Plan]
) -> None:
    with pytest.raises(PlanError) as refusal:
        check_supported(plan(**fields))
    diagnostics = refusal.value.diagnostics
    assert any(message in d.message for d in diagnostics), diagnostics
    assert all(d.rule == "RUN005" and d.hint for d in diagnostics)


@pytest.mark.parametrize(
    "fields",
    [
        {"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel": 2},
        {"zero_stage": 2, "data_parallel": 2, "precision": "bf16", "num_microbatches": 2},
        {"zero_stage": 1, "precision": "fp16", "offload": Offload(optimizer=1.0, tier="cpu")},
        {"pipeline_parallel": 2, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (3, 1)},
    ],
)
def test_a_layout_that_can_be_executed_passes(fields: dict[str, Any], plan: Callable[..., Plan]) -> None:
    check_supported(plan(**fields))
