"""2D, 2.5D and 3D train like one process: losses and every gradient, over steps that depend on them."""

from typing import Any

import pytest
import torch

from planner.plans.plan import Plan
from tests.runtime.training import LEARNING_RATES, SEED, MakePlan, Ranks, own_batches, plain_steps, reference

pytestmark = pytest.mark.runtime

Steps = list[tuple[float, dict[str, Any]]]
"""Loss and gradients, as NumPy arrays by parameter name, of each step."""

# Differences of a gradient, over its largest element. Adam divides gradients near zero, such as those of
# the key biases, by themselves, so their rounding errors move weights.
GRADIENT_BOUNDS: dict[type[torch.optim.Optimizer], float] = {torch.optim.SGD: 1e-5, torch.optim.AdamW: 1e-3}

CHANGED = 9
"""Position of the token that changes."""

SQUARE = {"tensor_mode": "2d", "tensor_parallel": 4}
FLAT_SQUARE = {"tensor_mode": "2.5d", "tensor_parallel": 4}
PAIR = {"tensor_mode": "2.5d", "tensor_parallel": 2, "tensor_depth": 2}
DEEP_SQUARE = {"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}
CUBE = {"tensor_mode": "3d", "tensor_parallel": 8}
TWO_STAGES = {"pipeline_parallel": 2, "num_microbatches": 2}

LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"2d": {"tensor_mode": "2d"}, "2.5d": {"tensor_mode": "2.5d"}, "3d": {"tensor_mode": "3d"}},
    2: {"2.5d": PAIR, "2.5d-recompute": {**PAIR, "num_microbatches": 2, "recompute_layers_per_stage": (2,)}},
    4: {
        "2d": SQUARE,
        "2d-accumulation": {**SQUARE, "num_microbatches": 4, "recompute_layers_per_stage": (2,)},
        "2.5d": FLAT_SQUARE,
        "2.5d-pp2": {**PAIR, **TWO_STAGES, "layers_per_stage": (1, 2)},
        "2.5d-dp2": {**PAIR, "data_parallel": 2},
    },
    8: {
        "2.5d": DEEP_SQUARE,
        "3d": CUBE,
        "3d-recompute": {**CUBE, "num_microbatches": 2, "recompute_layers_per_stage": (3,)},
        "2d-pp2": {**SQUARE, **TWO_STAGES, "layers_per_stage": (2, 1), "recompute_layers_per_stage": (1, 0)},
        "2d-dp2": {**SQUARE, "data_parallel": 2, "num_microbatches": 2},
        "2.5d-pp2-dp2": {**PAIR, **TWO_STAGES, "data_parallel": 2, "layers_per_stage": (1, 2)},
    },
}
TRAINED_TWICE = ("2d", "2.5d", "3d", "2d-pp2")
"""What the untied model and AdamW train too; the other layouts differ in nothing that concerns them."""

EACH_WORLD = pytest.mark.parametrize("world", LAYOUTS, ids=lambda world: f"{world}-ranks")


def make_engine(plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Any:
    from runtime.engines.grid import GridEngine

    return GridEngine(plan, "cpu", seed=SEED, learning_rate=LEARNING_RATES[optimizer], optimizer=optimizer)


def reference_steps(plan: Plan, optimizer: type[torch.optim.Optimizer]) -> Steps:
    """Plain PyTorch, in one process."""
    return [
        (loss, {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None})
        for loss, model in plain_steps(plan, optimizer)
    ]


def differences(plan: Plan, optimizer: type[torch.optim.Optimizer], expected: Steps) -> list[str]:
    """What this rank computes other than ``expected``, in words; and the parameters that it has."""
    engine = make_engine(plan, optimizer)
    found = []
    for number, (batch, (loss, gradients)) in enumerate(zip(own_batches(engine, plan), expected, strict=True)):
        own_loss = engine._global_mean(engine.accumulate_gradients(batch))
        if own_loss != pytest.approx(loss, rel=1e-5):
            found.append(f"step {number}: loss {own_loss}, not {loss}")
        own = engine.full_gradients()
        missing = {name for name in gradients if name.startswith("transformer.h.")} - own.keys()
        if plan.layout.pipeline_parallel == 1 and (missing or gradients.keys() != own.keys()):
            found.append(f"step {number}: no gradient of {missing}")
        for name, gradient in own.items():
            whole = torch.from_numpy(gradients[name])
            error = float((gradient - whole).abs().max() / whole.abs().max())
            if not error <= GRADIENT_BOUNDS[optimizer]:
                found.append(f"step {number}: gradient of {name} off by {error:.1e}")
        engine.optimizer.step()
        engine.optimizer.zero_grad()
    return found


# SGD, unlike Adam, also shows a gradient that is wrong by a factor.
@EACH_WORLD
@pytest.mark.parametrize(
    ("optimizer", "tied"),
    [(torch.optim.SGD, True), (torch.optim.SGD, False), (torch.optim.AdamW, True)],
    ids=["sgd-tied", "sgd-untied", "adamw-tied"],
)
def test_losses_and_gradients_equal_plain_pytorch(
    world: int, optimizer: type[torch.optim.Optimizer], tied: bool, plan: MakePlan, ranks: Ranks
) -> None:
    model = {"tied_embeddings": tied, "num_layers": 3}
    first_run = tied and optimizer is torch.optim.SGD
    layouts = {name: fields for name, fields in LAYOUTS[world].items() if first_run or name in TRAINED_TWICE}
    (expected,) = ranks(1, lambda rank: reference_steps(plan(model=model), optimizer))
    assert expected[-1][0] < expected[0][0] - 0.1

    def compare(rank: int) -> dict[str, list[str]]:
        chosen = {name: plan(model=model, **fields) for name, fields in layouts.items()}
        return {name: differences(one, optimizer, expected) for name, one in chosen.items()}

    assert ranks(world, compare) == [{name: [] for name in layouts}] * world


MIXED: dict[int, dict[str, dict[str, Any]]] = {
    1: {"2.5d": {"tensor_mode": "2.5d"}},
    2: {"2.5d": PAIR},
    4: {"2d": SQUARE},
    8: {"3d": CUBE, "2d-pp2": {**SQUARE, **TWO_STAGES}},
}


@EACH_WORLD
def test_mixed_precision_equals_fp32_to_its_rounding(world: int, plan: MakePlan, ranks: Ranks) -> None:
    (expected,) = ranks(1, lambda rank: reference(plan()))

    def train(rank: int) -> dict[str, list[float]]:
        losses = {}
        for precision in ("bf16", "fp16"):
            for name, fields in MIXED[world].items():
                chosen = plan(precision=precision, **fields)
                engine = make_engine(chosen)
                masters = engine.optimizer.param_groups[0]["params"]
                assert {one.dtype for one in masters} == {torch.float32}
                assert {one.element_size() for one in engine.model.parameters()} == {2}
                steps = own_batches(engine, chosen)
                losses[f"{name} {precision}"] = [engine.step(batch) for batch in steps]
        return losses

    for losses in ranks(world, train):
        # bf16 keeps 8 bits, 0.4 %; a mean over 128 tokens is a little better than that.
        for name, found in losses.items():
            assert found == pytest.approx(expected, rel=2e-3), name


def earliest_change(plan: Plan) -> int | None:
    """First position whose logits on this rank depend on the changed token; none without logits."""
    engine = make_engine(plan)
    tokens = torch.arange(plan.problem.seq_len).repeat(plan.problem.global_batch, 1)
    changed = tokens.clone()
    changed[:, CHANGED] = 200
    before, after = logits(engine, tokens), logits(engine, changed)
    if before is None or after is None:
        return None
    return int((before != after).any(dim=2).any(dim=0).nonzero()[0])


def logits(engine: Any, tokens: torch.Tensor) -> torch.Tensor | None:
    """This rank's part of the logits as training computes them; ``None`` before the last stage."""
    captured: list[torch.Tensor] = []

    def criterion(outputs: dict[str, torch.Tensor], _: object = None) -> torch.Tensor:
        captured.append(outputs["logits"].detach())
        return outputs["logits"].sum()

    if engine.schedule is None:
        criterion(engine.model(tokens[engine.rows]))
    else:
        batch = {"input_ids": tokens[engine.rows]}
        engine.schedule.forward_backward_step(engine.model, iter([batch]), criterion, engine.optimizer)
    return torch.cat(captured) if captured else None


@EACH_WORLD
def test_no_logit_depends_on_a_later_token(world: int, plan: MakePlan, ranks: Ranks) -> None:
    layouts = {name: fields for name, fields in LAYOUTS[world].items() if name != "2d-accumulation"}

    def changes(rank: int) -> list[int | None]:
        return [earliest_change(plan(model={"num_layers": 3}, **fields)) for fields in layouts.values()]

    found = {position for of_rank in ranks(world, changes) for position in of_rank}
    assert found - {None} == {CHANGED}


@EACH_WORLD
def test_dropout(world: int, plan: MakePlan, ranks: Ranks) -> None:
    """Every rank draws its own, copies of a parameter stay equal, and recomputing draws the same again."""
    grids: dict[int, dict[str, Any]] = {1: {"tensor_mode": "3d"}, 2: PAIR, 4: SQUARE, 8: CUBE}
    fields = grids[world]

    def train(rank: int) -> tuple[list[bool], list[float], list[float], float]:
        results = []
        for layers in (0, 2):
            model = {"dropout": 0.2, "num_layers": 2}
            chosen = plan(model=model, **fields, recompute_layers_per_stage=(layers,))
            engine = make_engine(chosen)
            kept = engine.model.embed(next(own_batches(engine, chosen))["input_ids"]).flatten()[:64] != 0
            results.append([engine.step(batch) for batch in own_batches(engine, chosen)])
        return kept.tolist(), results[0], results[1], spread_of_copies(engine)

    found = ranks(world, train)
    assert len({str(kept) for kept, *_ in found}) == world
    for _, kept_losses, recomputed_losses, spread in found:
        assert recomputed_losses == pytest.approx(kept_losses, rel=1e-6)
        assert spread == 0.0


def spread_of_copies(engine: Any) -> float:
    """The largest difference between the copies of any parameter."""
    from torch.distributed import ReduceOp, all_reduce

    from runtime.grid.weights import copy_axes

    spread = 0.0
    for name, parameter in engine.model.named_parameters():
        highest, lowest = parameter.detach().clone(), parameter.detach().clone()
        group = engine.mesh.group(*copy_axes(name, engine.mesh.grid))
        all_reduce(highest, ReduceOp.MAX, group=group)
        all_reduce(lowest, ReduceOp.MIN, group=group)
        spread = max(spread, float((highest - lowest).max()))
    return spread


@pytest.mark.parametrize(("fields", "engine"), [(PAIR, "GridEngine"), ({"tensor_parallel": 2}, "HybridEngine")])
def test_the_tensor_mode_chooses_the_engine(fields: dict[str, Any], engine: str, plan: MakePlan, ranks: Ranks) -> None:
    def chosen(rank: int) -> str:
        from runtime.engines import choice

        return type(choice.make_engine(plan(**fields), seed=SEED, learning_rate=0.1)).__name__

    assert ranks(2, chosen) == [engine] * 2
