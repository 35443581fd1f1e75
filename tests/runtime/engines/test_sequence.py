"""Sequence parallelism: every gradient is right, which takes a correction of the library."""

from typing import Any

import pytest

from planner.plans.plan import Plan
from tests.runtime.training import (
    SEED,
    MakePlan,
    Ranks,
    differing,
    gathered_gradients,
    make_engine,
    own_batches,
    reference_gradients,
)

pytestmark = pytest.mark.runtime

SPLIT: dict[str, Any] = {"tensor_parallel": 2, "sequence_parallel": True}

LAYOUTS: dict[str, dict[str, Any]] = {
    "tp2": {},
    "accumulation": {"num_microbatches": 2},
    "recompute": {"recompute_layers_per_stage": (2,)},
    "pp2": {"pipeline_parallel": 2, "num_microbatches": 2},
    "pp2-recompute": {"pipeline_parallel": 2, "num_microbatches": 2, "recompute_layers_per_stage": (2, 1)},
    "dp2": {"data_parallel": 2, "num_microbatches": 2},
    "interleaved": {"pipeline_parallel": 2, "schedule": "interleaved", "num_model_chunks": 2},
}

MIXED: dict[str, dict[str, Any]] = {
    "bf16": {"num_microbatches": 2},
    "zero1": {"data_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
    "zero2": {"data_parallel": 2, "zero_stage": 2, "num_microbatches": 2},
    "pp2-zero1": {"pipeline_parallel": 2, "zero_stage": 1, "num_microbatches": 2},
}


@pytest.mark.parametrize(("name", "tied"), [*((name, True) for name in LAYOUTS), ("pp2", False)])
def test_gradients_are_those_of_plain_pytorch(name: str, tied: bool, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(model={"tied_embeddings": tied}, **SPLIT, **LAYOUTS[name])
    (expected,) = ranks(1, lambda rank: reference_gradients(chosen))
    for found in ranks(chosen.layout.num_devices, lambda rank: gathered_gradients(chosen)):
        assert differing(found, expected) == {}


@pytest.mark.parametrize("name", ["tp2", "pp2"])
def test_the_check_sees_what_the_library_leaves_wrong(name: str, plan: MakePlan, ranks: Ranks) -> None:
    """Without the mark the gradient of a row-parallel bias is that of the rank's own slice."""
    chosen = plan(**SPLIT, **LAYOUTS[name])

    def uncorrected(rank: int) -> Any:
        import runtime.patches.policy

        runtime.patches.policy.mark_partial_biases = lambda model: None
        return gathered_gradients(chosen)

    (expected,) = ranks(1, lambda rank: reference_gradients(chosen))
    for found in ranks(chosen.layout.num_devices, uncorrected):
        wrong = differing(found[:1], expected[:1])
        assert all(name.endswith("c_proj.bias") for name in wrong)
        assert len(wrong) == 2 * len({name for name in found[0] if name.endswith("ln_1.bias")})
        assert min(wrong.values()) > 0.3


def first_update(plan: Plan) -> dict[str, list[float]]:
    """The row-parallel biases after one step of gradient descent from zero: their gradients, scaled."""
    engine = make_engine(plan)
    engine.step(next(own_batches(engine, plan)))
    parameters = engine.model.unwrap().named_parameters()
    return {name: (-2 * p.float()).tolist() for name, p in parameters if name.endswith("c_proj.bias")}


@pytest.mark.parametrize("name", MIXED)
def test_biases_move_by_their_gradient_under_zero(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(precision="bf16", **SPLIT, **MIXED[name])
    (expected,) = ranks(1, lambda rank: reference_gradients(chosen))
    for found in ranks(chosen.layout.num_devices, lambda rank: first_update(chosen)):
        assert found
        for bias, gradient in found.items():
            wanted = expected[0][bias]
            # bf16 rounds activations and gradients to 0.4 %.
            assert gradient == pytest.approx(wanted.tolist(), abs=0.03 * float(abs(wanted).max()))


def gathered_inputs(plan: Plan) -> int:
    """How many nodes of the graph of one micro batch hold an input that was gathered over the sequence."""
    engine = make_engine(plan)
    batch = engine.micro_batch(next(own_batches(engine, plan)), 0)
    found, open_nodes = set(), [engine.model(**batch)["loss"].grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None and node not in found:
            found.add(node)
            open_nodes += [following for following, _ in node.next_functions]
    return sum(hasattr(node, "gathered_input") for node in found)


@pytest.mark.parametrize(("recomputed", "layers"), [(0, 4), (3, 1), (4, 0)])
def test_recomputed_layers_keep_no_gathered_inputs(recomputed: int, layers: int, plan: MakePlan, ranks: Ranks) -> None:
    """The cost model counts two of each layer that does not recompute."""
    chosen = plan(**SPLIT, recompute_layers_per_stage=(recomputed,))
    assert ranks(2, lambda rank: gathered_inputs(chosen)) == [2 * layers] * 2


@pytest.mark.parametrize("name", ["tp2", "recompute"])
def test_dropout_keeps_replicas_equal(name: str, plan: MakePlan, ranks: Ranks) -> None:
    chosen = plan(model={"dropout": 0.2}, **SPLIT, **LAYOUTS[name])

    def replicated(rank: int) -> dict[str, list[float]]:
        engine = make_engine(chosen)
        for batch in own_batches(engine, chosen):
            engine.step(batch)
        parameters = engine.model.unwrap().named_parameters()
        return {n: p.tolist() for n, p in parameters if "ln_" in n or "wpe" in n or n.endswith("c_proj.bias")}

    first, second = ranks(2, replicated)
    assert first == second


def test_the_embedding_drops_one_set_of_elements_and_the_share_asked_for() -> None:
    import torch

    from runtime.patches.policy import ReplicatedDropout

    states = torch.ones(100, 100)
    first, second = ReplicatedDropout(0.25), ReplicatedDropout(0.25)
    for module in (first, second):
        module.seed(SEED)
    torch.manual_seed(1)
    dropped = first(states)
    torch.manual_seed(2)
    assert torch.equal(dropped, second(states))
    assert not torch.equal(dropped, first(states))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(first.eval()(states), states)
