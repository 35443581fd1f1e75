"""The interleaved schedule: every rank holds its chunks' layers, and trains like one process."""

from typing import Any

import pytest
import torch

from planner.plans.plan import Plan
from runtime.states.placement import held_layers
from tests.runtime.training import (
    MakePlan,
    Ranks,
    differing,
    gathered_gradients,
    make_engine,
    reference,
    reference_gradients,
    train,
)

pytestmark = pytest.mark.runtime

INTERLEAVED: dict[str, Any] = {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2}

LAYOUTS: dict[str, dict[str, Any]] = {
    "two-microbatches": {"num_microbatches": 2},
    "eight-microbatches": {"num_microbatches": 8},
    "tp2": {"num_microbatches": 2, "tensor_parallel": 2},
    "dp2": {"num_microbatches": 2, "data_parallel": 2},
}


def test_a_stage_holds_the_layers_of_its_chunks(plan: MakePlan) -> None:
    fields: dict[str, Any] = {"model": {"num_layers": 12}, "num_microbatches": 3}
    layout = plan(pipeline_parallel=3, schedule="interleaved", num_model_chunks=2, **fields).layout
    assert [held_layers(layout, stage) for stage in range(3)] == [(0, 1, 6, 7), (2, 3, 8, 9), (4, 5, 10, 11)]
    uneven = plan(pipeline_parallel=3, layers_per_stage=(1, 2, 1), num_microbatches=3).layout
    assert [held_layers(uneven, stage) for stage in range(3)] == [(0,), (1, 2), (3,)]


def layers_with_storage(plan: Plan) -> set[int]:
    engine = make_engine(plan)
    held = [name for name, p in engine.model.unwrap().named_parameters() if not p.is_meta]
    return {int(name.split(".")[2]) for name in held if name.startswith("transformer.h.")}


def test_only_the_chunks_of_a_stage_have_storage(plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**INTERLEAVED, num_microbatches=2)
    assert ranks(2, lambda rank: layers_with_storage(chosen)) == [{0, 2}, {1, 3}]


@pytest.mark.parametrize(("name", "tied"), [*((name, True) for name in LAYOUTS), ("two-microbatches", False)])
def test_gradients_are_those_of_plain_pytorch(name: str, tied: bool, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(model={"tied_embeddings": tied}, **INTERLEAVED, **LAYOUTS[name])
    (expected,) = ranks(1, lambda rank: reference_gradients(chosen))
    for found in ranks(chosen.layout.num_devices, lambda rank: gathered_gradients(chosen)):
        assert differing(found, expected) == {}


def test_losses_are_those_of_plain_pytorch(plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**INTERLEAVED, num_microbatches=4)
    (expected,) = ranks(1, lambda rank: reference(chosen, torch.optim.AdamW))
    for losses in ranks(2, lambda rank: train(chosen, torch.optim.AdamW)):
        assert losses == pytest.approx(expected, rel=1e-5)


def test_losses_with_zero_are_those_of_plain_pytorch(plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(**INTERLEAVED, num_microbatches=2, data_parallel=2, zero_stage=1, precision="bf16")
    (expected,) = ranks(1, lambda rank: reference(chosen))
    for losses in ranks(4, lambda rank: train(chosen)):
        assert losses == pytest.approx(expected, rel=2e-3)
