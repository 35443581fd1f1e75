"""Changing a token never changes what the model says about an earlier one, in any mode."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from planner.plans.plan import Plan

pytestmark = pytest.mark.runtime

MakePlan = Callable[..., Plan]
Ranks = Callable[[int, Callable[[int], Any]], list[Any]]

CHANGED = 9
"""Position of the token that changes."""

MODES: dict[str, dict[str, Any]] = {
    "single": {},
    "recompute": {"recompute_layers_per_stage": (4,)},
    "tp2": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2, "num_microbatches": 2},
    "tp2-pp2": {"tensor_parallel": 2, "pipeline_parallel": 2, "num_microbatches": 2},
    "interleaved": {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2, "num_microbatches": 2},
    "sequence": {"tensor_parallel": 2, "sequence_parallel": True},
    "sequence-pp2": {"tensor_parallel": 2, "sequence_parallel": True, "pipeline_parallel": 2, "num_microbatches": 2},
    "dp2-zero1": {"data_parallel": 2, "zero_stage": 1, "precision": "bf16"},
}


def earliest_change(plan: Plan, attention: str | None = None) -> int | None:
    """First position whose logits on this rank depend on the changed token; none without logits."""
    from runtime.engines.hybrid import HybridEngine

    class Attending(HybridEngine):
        pass

    Attending.attention = attention
    engine = Attending(plan, "cpu", seed=3, learning_rate=0.1)
    tokens = torch.arange(plan.problem.seq_len).repeat(plan.problem.global_batch, 1)
    changed = tokens.clone()
    changed[:, CHANGED] = 200
    before, after = logits(engine, tokens), logits(engine, changed)
    if before is None or after is None:
        return None
    differs = (before != after).flatten(2).any(dim=2).any(dim=0)
    return int(differs.nonzero()[0])


def logits(engine: Any, tokens: torch.Tensor) -> torch.Tensor | None:
    """Logits as training computes them, recomputation included; ``None`` before the last stage."""
    tokens = tokens[engine.rows]
    if engine.layout.pipeline_parallel == 1:
        output: torch.Tensor = engine.model(input_ids=tokens)["logits"]
        return output
    captured: list[torch.Tensor] = []

    def criterion(outputs: dict[str, torch.Tensor], _: object) -> torch.Tensor:
        captured.append(outputs["logits"].detach())
        return outputs["logits"].sum()

    engine.booster.execute_pipeline(iter([{"input_ids": tokens}]), engine.model, criterion, engine.optimizer)
    engine.optimizer.zero_grad()
    return torch.cat(captured) if captured else None


@pytest.mark.parametrize("mode", MODES)
def test_no_logit_depends_on_a_later_token(mode: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**MODES[mode])
    found = ranks(chosen.layout.num_devices, lambda rank: earliest_change(chosen))
    assert {position for position in found if position is not None} == {CHANGED}


@pytest.mark.parametrize("mode", ["single", "tp2"])
def test_the_check_sees_attention_that_is_not_causal(mode: str, plan: MakePlan, ranks: Ranks) -> None:
    """Transformers' default attention, given the mask that Colossal-AI always makes."""
    chosen = plan(**MODES[mode])
    assert set(ranks(chosen.layout.num_devices, lambda rank: earliest_change(chosen, attention="sdpa"))) == {0}
