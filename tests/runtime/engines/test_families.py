"""Llama, Mistral and Qwen2: every kind of layout agrees with one process, and the library's errors are found.

Ranks are started once for all layouts of as many processes.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from planner.handover.verification import Verification, Workaround
from planner.layouts.layout import Offload
from planner.plans.plan import Plan
from tests.runtime.conftest import make_plan, run_ranks
from tests.runtime.family_models import MODELS

pytestmark = pytest.mark.runtime

MIXED: dict[str, Any] = {"precision": "bf16"}
STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
CHUNKS: dict[str, Any] = {**STAGES, "schedule": "interleaved", "num_model_chunks": 2}
SPLIT: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}
EXCHANGE: dict[str, Any] = {"sequence_parallel_degree": 2}
REPLICAS: dict[str, Any] = {"data_parallel": 2, "num_microbatches": 2}
UNTIED: dict[str, Any] = {"model": {"tied_embeddings": False}}
PADDED: dict[str, Any] = {"model": {"vocab_size": 101}}

LAYOUTS: dict[str, dict[str, Any]] = {
    "one": {"recompute_layers_per_stage": (2,)},
    "one, padded": {"model": {"vocab_size": 101, "tied_embeddings": False}},
    "tp2, padded": {"tensor_parallel": 2, **PADDED, "recompute_layers_per_stage": (3,)},
    "pp2, uneven": {**STAGES, **PADDED, "layers_per_stage": (1, 3), "recompute_layers_per_stage": (0, 2)},
    "interleaved": {**CHUNKS, "num_microbatches": 4, "recompute_layers_per_stage": (1, 2)},
    "dp2": REPLICAS,
    "zero1": {**MIXED, **REPLICAS, "zero_stage": 1},
    "zero2": {**MIXED, **REPLICAS, "zero_stage": 2},
    "zero1, offload": {**MIXED, "data_parallel": 2, "zero_stage": 1, "offload": Offload(optimizer=1.0, tier="cpu")},
    "split": {**SPLIT, **UNTIED, "num_microbatches": 2},
    "all-to-all": {**EXCHANGE, "num_microbatches": 2},
    "tp2 x pp2": {**STAGES, **UNTIED, "tensor_parallel": 2},
    "tp2 x zero1": {**MIXED, **REPLICAS, "tensor_parallel": 2, "zero_stage": 1},
    "split x pp2": {**SPLIT, **STAGES, "recompute_layers_per_stage": (1, 1)},
    "split x zero2": {**SPLIT, **MIXED, **REPLICAS, "zero_stage": 2},
    "all-to-all 4, rows of one": {"sequence_parallel_degree": 4, "num_microbatches": 8},
    "all-to-all x tp2": {**EXCHANGE, "tensor_parallel": 2, "recompute_layers_per_stage": (2,)},
    "all-to-all x pp2": {**EXCHANGE, **STAGES},
    "all-to-all x interleaved": {**EXCHANGE, **CHUNKS},
    "all-to-all x dp2": {**EXCHANGE, **REPLICAS},
    "all-to-all x zero1": {**EXCHANGE, **MIXED, **REPLICAS, "zero_stage": 1},
}
WITHOUT_WINDOW: dict[str, Any] = {"attention": {"kv_heads": 4, "qkv_bias": True, "output_bias": False}}
ERRORS: dict[str, tuple[Workaround, str, dict[str, Any]]] = {
    "split sees the future": ("causal-attention", "llama", SPLIT),
    "all-to-all sees the future": ("causal-attention", "qwen2", {**EXCHANGE, "model": WITHOUT_WINDOW}),
    "mistral keeps whole sequences": ("llama-policy", "mistral", {**SPLIT}),
    "qwen2 takes no padding": ("llama-policy", "qwen2", {"tensor_parallel": 2, **PADDED}),
}
"""What the library does with a workaround switched off: its name, the family and the layout."""

TIMEOUT_S = 480
"""Of all layouts of as many ranks, on a machine with other work."""

Found = dict[tuple[str, str], "Verification | str"]


def case_plan(family: str, fields: dict[str, Any]) -> Plan:
    return make_plan(**{**fields, "model": MODELS[family] | fields.get("model", {})})


def _all_of(world: int, _: int) -> Found:
    """What rank 0 finds of every layout and family of ``world`` ranks; every rank calls it."""
    from runtime.patches import rotary

    plans = {(family, name): case_plan(family, fields) for name, fields in LAYOUTS.items() for family in MODELS}
    found: Any = {key: _verified(plan) for key, plan in plans.items() if plan.layout.num_devices == world}
    right = dict(vars(rotary))
    for name, (workaround, family, fields) in ERRORS.items():
        plan = case_plan(family, fields)
        if plan.layout.num_devices == world:
            try:
                found[family, name] = _verified(plan, workaround)
            except (AssertionError, RuntimeError) as error:
                found[family, name] = str(error)
            vars(rotary).update(right)
    return found


def _verified(plan: Plan, *without: Workaround) -> Verification | None:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.verify.steps import verify

    # The library remembers over which ranks it divided tensors of the model before.
    clear_layout_converter()
    return verify(plan, steps=2, seed=7, without=without)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    whole: Found = {}
    for world in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        whole |= run_ranks(world, partial(_all_of, world), folder, timeout_s=TIMEOUT_S)[0]
    return whole


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_agrees_with_one_process(name: str, family: str, found: Found) -> None:
    verification = found[family, name]
    assert isinstance(verification, Verification)
    assert verification.holds, verification
    tied = LAYOUTS[name].get("model", {}).get("tied_embeddings", True)
    of_layer = 12 if family == "qwen2" else 9
    assert verification.num_parameters == 4 * of_layer + (2 if tied else 3)


@pytest.mark.parametrize("name", ["split sees the future", "all-to-all sees the future"])
def test_attention_that_sees_the_future_is_found(name: str, found: Found) -> None:
    verification = found[ERRORS[name][1], name]
    assert isinstance(verification, Verification)
    assert not verification.holds
    assert verification.steps[0].gradient.value is not None
    assert verification.steps[0].gradient.value > 0.3


def test_sequences_that_a_policy_leaves_whole_are_found(found: Found) -> None:
    assert "must match" in str(found["mistral", "mistral keeps whole sequences"])


def test_a_vocabulary_that_a_policy_does_not_pad_is_found(found: Found) -> None:
    assert "101" in str(found["qwen2", "qwen2 takes no padding"])


def test_wave_lengths_are_not_rounded_with_the_weights(tmp_path: Path) -> None:
    """In bf16 the rotation of token 3000 would be off by several radians."""

    def rotations(rank: int) -> tuple[float, str]:
        import torch

        from runtime.engines.hybrid import HybridEngine
        from runtime.states.model import build_model

        plan = case_plan("llama", {"precision": "bf16", "zero_stage": 0})
        engine = HybridEngine(plan, "cpu", seed=7, learning_rate=0.1)
        own = engine.model.unwrap().model.rotary_emb
        right = build_model(plan.problem.model, 7).model.rotary_emb
        at, states = torch.tensor([[3000]]), torch.zeros(1)
        return float((own(states, at)[0] - right(states, at)[0]).abs().max()), str(own.inv_freq.dtype)

    assert run_ranks(1, rotations, tmp_path) == [(0.0, "torch.float32")]
