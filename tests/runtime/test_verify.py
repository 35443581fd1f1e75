"""Verification: every layout agrees with one process, and each silent error of the library is found."""

from typing import Any

import pytest

from planner.layout import Offload
from planner.plan import Plan
from planner.verification import Verification, Workaround
from tests.runtime.training import MakePlan, Ranks

pytestmark = pytest.mark.runtime

MIXED: dict[str, Any] = {"precision": "bf16"}
TWO_STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
UNEVEN = {**TWO_STAGES, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (1, 0)}
PAIR: dict[str, Any] = {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2}
SEQUENCE: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {},
    "tp2": {"tensor_parallel": 2},
    "pp2-uneven-recompute": {**UNEVEN, "num_microbatches": 4},
    "interleaved": {**TWO_STAGES, "schedule": "interleaved", "num_model_chunks": 2, "num_microbatches": 4},
    "sequence": {**SEQUENCE, "num_microbatches": 2},
    "sequence-zero1": {**SEQUENCE, **MIXED, "data_parallel": 2, "zero_stage": 1},
    "dp2": {"data_parallel": 2, "num_microbatches": 2},
    "zero1": {**MIXED, "data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    "zero2": {**MIXED, "data_parallel": 2, "zero_stage": 2, "num_microbatches": 2},
    "zero1-offload": {**MIXED, "data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu")},
    "tp2-pp2-dp2": {**UNEVEN, "tensor_parallel": 2, "data_parallel": 2},
    "tp2-pp2-zero1": {**TWO_STAGES, **MIXED, "tensor_parallel": 2, "zero_stage": 1},
    "2d": {"tensor_mode": "2d", "tensor_parallel": 4},
    "2.5d": PAIR,
    "2.5d-pp2-dp2": {**PAIR, **TWO_STAGES, "data_parallel": 2},
    "3d": {"tensor_mode": "3d", "tensor_parallel": 8},
}


def verified(plan: Plan, ranks: Ranks, *without: Workaround) -> Verification:
    def verify(rank: int) -> Verification | None:
        from runtime.verifying import verify

        return verify(plan, steps=3, seed=7, without=without)

    first, *others = ranks(plan.layout.num_devices, verify)
    assert others == [None] * (plan.layout.num_devices - 1)
    assert isinstance(first, Verification)
    return first


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_agrees_with_one_process(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**LAYOUTS[name])
    found = verified(chosen, ranks)
    assert found.holds, found
    assert found.num_parameters == 12 * 4 + 4
    assert found.steps[-1].loss < found.steps[0].loss


def test_attention_that_sees_the_future_is_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(tensor_parallel=2), ranks, "causal-attention")
    assert not found.holds
    for step in found.steps:
        assert step.gradient.value is not None
        assert step.gradient.value > 0.3
    # All ranks see the future alike, so comparing them with each other would not show it.
    assert found.steps[0].replicas is not None
    assert found.steps[0].replicas.value == pytest.approx(0.0, abs=1e-5)


def test_unsummed_biases_of_a_split_sequence_are_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(**SEQUENCE), ranks, "sequence-bias-sum")
    assert not found.holds
    first = found.steps[0]
    assert first.loss_difference == pytest.approx(0.0, abs=1e-6)
    assert first.gradient.parameter.endswith("c_proj.bias")
    assert first.gradient.value is not None
    assert first.gradient.value > 0.3
    assert first.replicas is not None
    assert first.replicas.parameter.endswith("c_proj.bias")
    assert first.replicas.value is not None
    assert first.replicas.value > 0.3


def test_a_depth_that_nobody_sums_over_is_found(plan: MakePlan, ranks: Ranks) -> None:
    found = verified(plan(**PAIR), ranks, "depth-sum")
    assert not found.holds
    first = found.steps[0]
    assert first.gradient.value is not None
    assert first.gradient.value > 0.3
    assert first.replicas is not None
    assert first.replicas.ranks == (0, 1)
    assert first.replicas.value is not None
    assert first.replicas.value > 0.3
