"""Exactly the planned number of layers runs forward twice, and nothing else changes."""

from typing import Any

import pytest
import torch

from planner.plans.plan import Plan
from tests.runtime.family_models import MODELS
from tests.runtime.training import (
    MakePlan,
    Ranks,
    differing,
    gathered_gradients,
    make_engine,
    own_batches,
    reference_gradients,
    train,
)

pytestmark = pytest.mark.runtime

LAYOUTS: dict[str, dict[str, Any]] = {
    "some": {"recompute_layers_per_stage": (3,)},
    "accumulation": {"num_microbatches": 2, "recompute_layers_per_stage": (1,)},
    "tp2": {"tensor_parallel": 2, "recompute_layers_per_stage": (2,)},
    "llama": {"model": MODELS["llama"], "recompute_layers_per_stage": (3,)},
    "pp2": {"pipeline_parallel": 2, "layers_per_stage": (3, 1), "recompute_layers_per_stage": (2, 0)},
    "interleaved": {
        "pipeline_parallel": 2,
        "schedule": "interleaved",
        "num_model_chunks": 2,
        "num_microbatches": 4,
        "recompute_layers_per_stage": (1, 2),
    },
}


def forward_calls(plan: Plan) -> dict[int, int]:
    """How often each layer of this rank runs forward in one step."""
    from runtime.states.model import blocks_of
    from runtime.states.placement import held_layers

    engine = make_engine(plan)
    blocks = blocks_of(engine.model.unwrap())
    calls = dict.fromkeys(held_layers(plan.layout, engine.position.stage), 0)

    def count(layer: int) -> Any:
        def hook(module: torch.nn.Module, inputs: Any) -> None:
            calls[layer] += 1

        return hook

    for layer in calls:
        # Attention comes early in a layer, where recomputing has to pass even if it may stop before the end.
        norm: Any = blocks[layer].get_submodule("ln_1" if hasattr(blocks[layer], "ln_1") else "input_layernorm")
        norm.register_forward_pre_hook(count(layer))
    engine.step(next(own_batches(engine, plan)))
    return calls


@pytest.mark.parametrize("name", LAYOUTS)
def test_so_many_layers_run_forward_twice(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**LAYOUTS[name])
    layout = chosen.layout
    found = ranks(layout.num_devices, lambda rank: forward_calls(chosen))
    for rank, calls in enumerate(found):
        stage = rank // layout.tensor_parallel % layout.pipeline_parallel
        wanted = layout.recompute_layers_per_stage[stage]
        assert len(calls) == layout.layers_per_stage[stage]
        twice = [layer for layer, count in calls.items() if count == 2 * layout.num_microbatches]
        once = [layer for layer, count in calls.items() if count == layout.num_microbatches]
        assert twice == sorted(calls)[:wanted]
        assert once == sorted(calls)[wanted:]


@pytest.mark.parametrize("name", LAYOUTS)
def test_gradients_are_those_of_plain_pytorch(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**LAYOUTS[name])
    (expected,) = ranks(1, lambda rank: reference_gradients(chosen))
    for found in ranks(chosen.layout.num_devices, lambda rank: gathered_gradients(chosen)):
        assert differing(found, expected) == {}


@pytest.mark.parametrize("fields", [{}, {"tensor_parallel": 2}, {"pipeline_parallel": 2}], ids=str)
def test_recomputing_draws_the_same_dropout(fields: dict[str, Any], plan: MakePlan, ranks: Ranks) -> None:
    def losses(recompute: bool) -> list[float]:
        stages = fields.get("pipeline_parallel", 1)
        per_stage = (4 // stages - 1 if recompute else 0,) * stages
        chosen = plan(model={"dropout": 0.2}, recompute_layers_per_stage=per_stage, **fields)
        first: list[float] = ranks(chosen.layout.num_devices, lambda rank: train(chosen))[0]
        return first

    assert losses(True) == pytest.approx(losses(False), rel=1e-6)
