"""ZeRO, and reduction of gradients, as compiled plans have them: bit by bit what the library's own steps make.

Over two replicas sums are rounded alike in whatever order and bucket. The update in one pass rounds exact halves of
weights otherwise, and is near. Ranks are started once for all layouts.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from planner.checkpoints.manifest import KINDS, LossScale
from planner.plans.plan import Plan
from tests.runtime.conftest import compiled, make_plan, run_ranks
from tests.runtime.family_models import MODELS
from tests.runtime.saving import RATE
from tests.runtime.training import SEED, own_batches

pytestmark = pytest.mark.runtime

LONGEST = 0.5
"""Less than any norm here."""
TWICE: dict[str, Any] = {"data_parallel": 2, "num_microbatches": 2, "precision": "bf16"}
PADDED: dict[str, Any] = {"model": {"vocab_size": 251, "hidden_size": 36}}
STAGES: dict[str, Any] = {**TWICE, "pipeline_parallel": 2}
CHUNKS: dict[str, Any] = {**STAGES, "schedule": "interleaved", "num_model_chunks": 2}
SLICES: dict[str, Any] = {**TWICE, "tensor_parallel": 2, "sequence_parallel": True}
FAR = 0.05
IN_ONE_PASS = ("zero 1, slices, padded", "zero 2, slices", "zero 1, stages", "stages")
LAYOUTS: dict[str, dict[str, Any]] = {
    "zero 1, slices, padded": {**SLICES, **PADDED, "zero_stage": 1, "recompute_layers_per_stage": (2,)},
    "zero 2, slices": {**SLICES, "zero_stage": 2},
    "zero 1, stages": {**STAGES, "zero_stage": 1},
    "zero 1, chunks, untied": {**CHUNKS, "zero_stage": 1, "model": MODELS["llama"]},
    "stages": STAGES,
    "stages in fp16": {**STAGES, "precision": "fp16"},
    "zero 2 in fp16": {**TWICE, "tensor_parallel": 2, "zero_stage": 2, "precision": "fp16"},
    "tensor parallel in fp32": {**TWICE, "tensor_parallel": 2, "precision": "fp32"},
}


Found = dict[Any, list[str]]
"""What was wrong, by layout."""


class Ran(NamedTuple):
    """What some steps of a rank made."""

    losses: list[float]
    """Of each step, and of its batch after it."""
    norms: list[float | None]
    gradients: list[dict[str, Any]]
    states: dict[str, Any]


def engine_of(plan: Plan, optimizer: Any = None) -> Any:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.engines.hybrid import HybridEngine

    clear_layout_converter()
    return HybridEngine(plan, "cpu", seed=SEED, learning_rate=RATE, optimizer=optimizer)


def trained(plan: Plan, optimizer: Any = torch.optim.AdamW) -> Ran:
    from runtime.checkpoints.engines import held_states
    from runtime.train.clipping import Clipping
    from runtime.verify.gradients import watch_gradients

    engine = engine_of(plan, optimizer)
    if plan.layout.precision == "fp16":
        overflow(engine, next(own_batches(engine, plan)))
    gradients, clipping = watch_gradients(engine), Clipping(engine, LONGEST)
    losses: list[float] = []
    norms = []
    for batch in own_batches(engine, plan):
        losses += (engine.step(batch), engine.evaluate(batch))
        norms.append(clipping.norm)
    engine.step(batch, lambda loss: False)
    losses.append(engine.step(batch))
    states = {f"{one.name} {kind}": one.read(kind).float().numpy() for one in held_states(engine) for kind in KINDS}
    return Ran(losses, norms, gradients, states)


def overflow(engine: Any, batch: Any) -> None:
    """A step that changes nothing but the scale of the loss; then one with which no gradient loses digits."""
    from runtime.states.loss_scale import write_loss_scale
    from runtime.train.steps import has_updated

    before = engine.evaluate(batch)
    write_loss_scale(engine.optimizer, LossScale(scale=2.0**60, growth_step=0, hysteresis_step=0))
    engine.step(batch)
    assert not has_updated(engine.optimizer)
    assert engine.evaluate(batch) == before
    write_loss_scale(engine.optimizer, LossScale(scale=2.0**15, growth_step=0, hysteresis_step=0))


def differences(own: Ran, library: Ran) -> Iterator[str]:
    if own.losses != library.losses or own.norms != library.norms:
        yield f"losses {own.losses}, {library.losses}, norms {own.norms}, {library.norms}"
    if min(norm for norm in own.norms if norm is not None) <= LONGEST:
        yield "nothing was clipped"
    steps = zip([*own.gradients, own.states], [*library.gradients, library.states], strict=True)
    for step, (ours, theirs) in enumerate(steps):
        if ours.keys() != theirs.keys():
            yield f"step {step}: {ours.keys() ^ theirs.keys()}"
        yield from (f"step {step}: {name}" for name in ours if not np.array_equal(ours[name], theirs[name]))


def distances(own: Ran, other: Ran) -> Iterator[str]:
    """Where an update that rounds otherwise leads far away."""
    if own.losses != pytest.approx(other.losses, rel=1e-3) or own.norms != pytest.approx(other.norms, rel=1e-2):
        yield f"losses {own.losses}, {other.losses}, norms {own.norms}, {other.norms}"
    for ours, theirs in zip([*own.gradients, own.states], [*other.gradients, other.states], strict=True):
        for name, expected in theirs.items():
            error = float(np.linalg.norm(ours[name] - expected) / (np.linalg.norm(expected) or 1.0))
            if error > FAR and ".c_attn.bias" not in name:
                yield f"{name}: {error}"


def reloaded(folder: Path) -> bool:
    """Whether a run goes on from a checkpoint as before, and finds no weights on their way when it is loaded."""
    from runtime.checkpoints.loading import load
    from runtime.engines import gathering
    from tests.runtime.saving import save

    plan = compiled(make_plan(**LAYOUTS["zero 1, stages"]))
    engine = engine_of(plan)
    first, second, _ = own_batches(engine, plan)
    engine.step(first)
    saved = save(engine, plan, folder, 1)
    losses = [engine.step(second), engine.step(first)]
    load(engine, saved)
    launches: list[None] = []
    gather = vars(gathering)["all_gather"]
    vars(gathering)["all_gather"] = lambda *_, **__: launches.append(None)
    engine.evaluate(first)
    vars(gathering)["all_gather"] = gather
    return [engine.step(second), engine.step(first)] == losses and not launches


def _all_of(folder: Path, _: int) -> Found:
    from runtime.engines import reduction

    torch.compile = lambda function, **_: function  # type: ignore[assignment]
    reduction.BUCKET_BYTES = 2**12  # of which there are several then
    found: Found = {}
    for name, fields in LAYOUTS.items():
        plan = compiled(make_plan(**fields))
        own = trained(plan)
        found[name] = list(differences(own, without_own_steps(plan)))
        if name in IN_ONE_PASS:
            found[name, "in one pass"] = list(distances(trained(plan, None), own))
    found["reloaded"] = [] if reloaded(folder) else ["other losses than of the checkpoint"]
    return found


def without_own_steps(plan: Plan) -> Ran:
    from runtime.engines import hybrid

    names = ("reduces_itself", "shards_itself")
    replaced = {name: vars(hybrid)[name] for name in names}
    vars(hybrid).update(dict.fromkeys(names, lambda *_: np.array([False])))
    try:
        return trained(plan)
    finally:
        vars(hybrid).update(replaced)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    folder = tmp_path_factory.mktemp("sharding")
    return run_ranks(4, partial(_all_of, folder), folder, timeout_s=480)


@pytest.mark.parametrize("name", [*LAYOUTS, *((name, "in one pass") for name in IN_ONE_PASS), "reloaded"])
def test_losses_gradients_and_states_are_those_of_the_library(name: Any, found: list[Found]) -> None:
    assert [rank[name] for rank in found] == [[]] * 4
