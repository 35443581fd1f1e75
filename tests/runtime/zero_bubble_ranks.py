"""What ranks do under a zero-bubble V for the tests of it: started once for all that needs as many processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.handover.verification import Verification, Workaround
from planner.layouts.zero_bubble import CHUNKS
from planner.plans.plan import Plan
from tests.runtime.conftest import make_plan
from tests.runtime.family_models import MIXTRAL, MODELS

V: dict[str, Any] = {"schedule": "zbv", "num_model_chunks": CHUNKS, "pipeline_parallel": 2, "num_microbatches": 4}
LLAMA: dict[str, Any] = {"model": MODELS["llama"]}
UNTIED: dict[str, Any] = {"model": {"tied_embeddings": False}}
PADDED: dict[str, Any] = {"model": MODELS["qwen2"] | {"vocab_size": 101}}
DEEP: dict[str, Any] = {"model": MODELS["llama"] | {"num_layers": 8}, "pipeline_parallel": 4}
TP2: dict[str, Any] = {"tensor_parallel": 2}
DP2: dict[str, Any] = {"data_parallel": 2, "num_microbatches": 2}
SOME: dict[str, Any] = {"recompute_layers_per_stage": (1, 2)}
ALL: dict[str, Any] = {"recompute_layers_per_stage": (2, 2)}

LAYOUTS: dict[str, dict[str, Any]] = {
    "gpt2": V,
    "gpt2 untied, recomputing": {**V, **UNTIED, **SOME},
    "llama": {**V, **LLAMA, "num_microbatches": 2},
    "llama untied, recomputing": {**V, **SOME, "model": MODELS["llama"] | UNTIED["model"]},
    "llama fp16": {**V, **LLAMA, "precision": "fp16"},
    "mistral": {**V, "model": MODELS["mistral"]},
    "qwen2": {**V, **PADDED},
    "mixtral": {**V, "model": MIXTRAL},
    "gpt2 tp2": {**V, **TP2},
    "gpt2 tp2, recomputing": {**V, **TP2, **SOME},
    "qwen2 tp2": {**V, **TP2, **PADDED},
    "gpt2 sequence": {**V, **TP2, "sequence_parallel": True},
    "llama sequence": {**V, **TP2, **LLAMA, "sequence_parallel": True},
    "llama sequence, recomputing": {**V, **TP2, **LLAMA, **ALL, "sequence_parallel": True},
    "llama all-to-all": {**V, **LLAMA, "sequence_parallel_degree": 2},
    "gpt2 dp2": {**V, **DP2},
    "llama zero1": {**V, **DP2, **LLAMA, "zero_stage": 1, "precision": "bf16"},
    "llama pp4": {**V, **DEEP, "num_microbatches": 8},
    "llama pp4, recomputing": {**V, **DEEP, "num_microbatches": 8, "recompute_layers_per_stage": (2, 1, 1, 2)},
    "gpt2 pp4, recomputing": {**V, **DEEP, "model": {"num_layers": 8}, "recompute_layers_per_stage": (1, 2, 2, 1)},
    "mixtral ep2, recomputing": {**V, **DP2, **SOME, "model": MIXTRAL, "expert_parallel": 2},
    "mixtral tp2": {**V, **TP2, "model": MIXTRAL},
    "mixtral ep2": {**V, **DP2, "model": MIXTRAL, "expert_parallel": 2},
}
ERRORS: dict[str, tuple[Workaround, dict[str, Any]]] = {
    "gpt2, weights": ("weight-gradients", V),
    "llama, weights": ("weight-gradients", {**V, **LLAMA}),
    "llama, scale": ("zero-bubble-scale", LAYOUTS["llama fp16"]),
}
DEFERRED: dict[str, int] = {
    "gpt2": 4,
    "gpt2 untied, recomputing": 4,
    "llama": 7,
    "llama pp4, recomputing": 7,
    "mixtral": 4 + 1 + 3 * 4,
    "gpt2 tp2": 4,
    "qwen2 tp2": 7,
    "gpt2 sequence": 4,
    "llama sequence": 7,
    "mixtral tp2": 4 + 1 + 3 * 4,
}
"""Layouts whose work is watched, and the products with weights that a layer has."""
VISITED: dict[str, dict[str, Any]] = {
    "fp32": {"tp2": {**V, **TP2}, "dp2, recomputing": {**V, **DP2, **SOME}},
    "bf16": {"zero1": {**V, **DP2, "zero_stage": 1}},
}
"""Layouts that go on from a checkpoint of a 1F1B pipeline, and it from theirs."""
END = 20
"""A token that ends a document; batches count through it."""


class Work(NamedTuple):
    """What a rank did in a step."""

    order: list[tuple[str, int]]
    """Kinds and chunks."""
    products: list[int]
    """Of each W: the gradients of weights that it made."""
    left: int
    """Sends that the schedule still knew of after the step."""


class Found(NamedTuple):
    """What rank 0 found; of work and grown batches, every rank."""

    verified: dict[str, Verification]
    work: dict[str, Work]
    grown: list[tuple[float, float]]
    refused: dict[str, str]
    """What the library makes of models and schedules as it ships them."""
    faults: dict[str, dict[str, list[str]]]
    losses: dict[str, list[float]]
    """With dropout, and with documents apart, under a V that recomputes, and otherwise."""


def case_plan(name: str) -> Plan:
    return make_plan(**LAYOUTS[name])


def _fresh() -> None:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    # The library remembers over which ranks it divided tensors of the model before.
    clear_layout_converter()


def _verified(fields: dict[str, Any], world: int, *without: Workaround) -> Verification | None:
    from runtime.verify.steps import verify

    _fresh()
    plan = make_plan(**fields)
    if plan.layout.num_devices != world:
        return None
    return verify(plan, steps=2, seed=7, without=without)


@contextmanager
def _restored(module: Any) -> Iterator[None]:
    right = dict(vars(module))
    yield
    vars(module).update(right)


def all_of(world: int, folder: Path, rank: int) -> Found:
    from runtime.engines import zero_bubble
    from runtime.patches import weight_gradients

    verified: Any = {name: _verified(fields, world) for name, fields in LAYOUTS.items()}
    for name, (workaround, fields) in ERRORS.items():
        with _restored(zero_bubble), _restored(weight_gradients):
            verified[name] = _verified(fields, world, workaround)
    work = {name: watched(case_plan(name)) for name in DEFERRED if case_plan(name).layout.num_devices == world}
    grown = _grown() if world == 2 else []
    faults = _visited(folder) if world == 4 else {}
    return Found(verified, work, grown, _refused(world), faults, _losses() if world == 2 else {})


def watched(plan: Plan) -> Work:
    """What this rank does in a step."""
    from colossalai.pipeline.weight_grad_store import WeightGradStore

    from runtime.patches import weight_gradients
    from tests.runtime.training import make_engine, own_batches

    _fresh()
    engine = make_engine(plan)
    schedule, order, products = engine.plugin.scheduler, [], []

    def watch(kind: str, call: Any) -> Any:
        def run(chunk: int, *others: Any) -> None:
            order.append((kind, chunk))
            if kind == "W":
                products.append(len(WeightGradStore.weight_grad_queue[chunk].queue[0]))
            call(chunk, *others)

        return run

    schedule._forward, schedule._backward = watch("F", schedule._forward), watch("B", schedule._backward)
    with _restored(weight_gradients):
        vars(weight_gradients)["add_products"] = watch("W", weight_gradients.add_products)
        engine.step(next(own_batches(engine, plan)))
    return Work(order, products, len(schedule.wait_handles))


def _grown() -> list[tuple[float, float]]:
    from runtime.engines.choice import make_engine
    from runtime.train.clipping import Clipping
    from tests.runtime.engines.test_evaluation import CLIPPED, LEARNING_RATE, SIZES, grown
    from tests.runtime.training import SEED

    _fresh()
    plan = case_plan("gpt2")
    engine = make_engine(plan, seed=SEED, learning_rate=LEARNING_RATE)
    engine.set_optimizer(CLIPPED)
    Clipping(engine, CLIPPED.clip_norm)
    return grown(engine, plan, SIZES)


def _losses() -> dict[str, list[float]]:
    dropping: dict[str, Any] = {**V, "model": {"dropout": 0.2}}
    in_turn: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 4}
    return {
        "dropout": _trained(make_plan(**dropping), None),
        "dropout, recomputing": _trained(make_plan(**dropping, **SOME), None),
        "documents": _trained(make_plan(**in_turn, **LLAMA), END),
        "documents, recomputing": _trained(make_plan(**V, **SOME, **LLAMA), END),
        "one document": _trained(make_plan(**in_turn, **LLAMA), None),
    }


def _trained(plan: Plan, end_of_document: int | None) -> list[float]:
    from torch.optim import SGD

    from runtime.engines.hybrid import HybridEngine
    from tests.runtime.training import SEED, own_batches

    _fresh()
    settings: dict[str, Any] = {"optimizer": SGD, "end_of_document": end_of_document}
    engine = HybridEngine(plan, "cpu", seed=SEED, learning_rate=0.5, **settings)
    losses = []
    for step, batch in enumerate(own_batches(engine, plan)):
        engine.seed_step(SEED, step)
        losses.append(engine.step(batch))
    return losses


def _refused(world: int) -> dict[str, str]:
    """What the library does on this rank where its own parts are put in the place of ours."""
    from colossalai.shardformer.policies.gpt2 import GPT2LMHeadModelPolicy

    from runtime.engines import plugins
    from runtime.patches import policy
    from tests.runtime.training import make_engine, own_batches

    if world != 2:
        return {}
    _fresh()
    found, plan = {}, case_plan("gpt2")
    engine = make_engine(plan)
    library = GPT2LMHeadModelPolicy()
    library.set_model(engine.model.unwrap())
    library.set_shard_config(engine.model.shard_config)
    norm = library.model.transformer.ln_f
    found["norm"] = str(any(module is norm for module in library.get_held_layers()))
    found["shared"] = str([sorted(shared) for shared in library.get_shared_params()])
    with _restored(policy):
        vars(policy)["leave_undivided"] = lambda policy: None
        with pytest.raises(RuntimeError) as unmade:
            make_engine(plan)
        found["conv"] = str(unmade.value)
    with _restored(plugins):
        vars(plugins)["ZeroBubbleV"] = _of_library
        engine = make_engine(plan)
        batch = next(own_batches(engine, plan))
        engine.step(batch)
        found["handles"] = str(sum(map(len, engine.plugin.scheduler.wait_handles)))
        with pytest.raises(AttributeError) as unknown:
            engine.evaluate(batch)
        found["forward"] = str(unknown.value)
    return found


def _of_library(schedule: Any, *, recomputes: bool) -> Any:
    """The library's schedule in our order."""
    from runtime.engines.zero_bubble import ZeroBubbleV
    from runtime.engines.zero_bubble_order import step_actions

    schedule.schedules = step_actions(2, schedule.num_microbatch, recomputes=recomputes)
    schedule.forget_shapes = partial(ZeroBubbleV.forget_shapes, schedule)
    return schedule


def _visited(folder: Path) -> dict[str, dict[str, list[str]]]:
    from tests.runtime.checkpoints.test_checkpoints import HUB, round_trips

    faults = {}
    for precision, layouts in VISITED.items():
        _fresh()
        common: dict[str, Any] = {"model": {"vocab_size": 251}, "precision": precision}
        plans = {name: make_plan(**common, **fields) for name, fields in layouts.items()}
        faults[precision] = round_trips(make_plan(**common, **HUB), plans, folder / precision)
    return faults
