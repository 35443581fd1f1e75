"""Mixtral: experts that ranks divide train like one process, and what the library does otherwise is found.

Ranks are started once for all that needs as many processes.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from planner.handover.verification import Verification, Workaround
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.plans.plan import Plan
from tests.runtime.conftest import make_plan, run_ranks
from tests.runtime.family_models import MIXTRAL

pytestmark = pytest.mark.runtime

ZERO1: dict[str, Any] = {"precision": "bf16", "zero_stage": 1}
STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
CHUNKS: dict[str, Any] = {**STAGES, "schedule": "interleaved", "num_model_chunks": 2}
TP2: dict[str, Any] = {"tensor_parallel": 2}
EP2: dict[str, Any] = {"data_parallel": 2, "expert_parallel": 2}
COPIES: dict[str, Any] = {"data_parallel": 4, "expert_parallel": 2}
PADDED: dict[str, Any] = {"model": {"vocab_size": 101, "tied_embeddings": False}}
FEW_TOKENS: dict[str, Any] = {"num_microbatches": 2, "model": {"experts": {"count": 16, "top_k": 1}}}
"""So few that some expert has tokens on one of its copies alone."""

LAYOUTS: dict[str, dict[str, Any]] = {
    "one, recomputed": {"num_microbatches": 2, "recompute_layers_per_stage": (2,)},
    "dp2": {"data_parallel": 2, "num_microbatches": 2},
    "zero2": {"data_parallel": 2, "num_microbatches": 2, "precision": "bf16", "zero_stage": 2},
    "interleaved": {**CHUNKS, "num_microbatches": 4},
    "ep2": {**EP2, "num_microbatches": 2, "recompute_layers_per_stage": (3,)},
    "ep2, zero1": {**EP2, **ZERO1, "num_microbatches": 2},
    "ep2 of four": {**COPIES, **FEW_TOKENS},
    "ep2 of four, zero1": {**COPIES, **ZERO1, **FEW_TOKENS},
    "ep4": {"data_parallel": 4, "expert_parallel": 4},
    "ep2 x tp2, padded": {**EP2, **TP2, **PADDED, "recompute_layers_per_stage": (1,)},
    "ep2 x pp2": {**EP2, **STAGES, "layers_per_stage": (1, 3), "recompute_layers_per_stage": (0, 2)},
    "ep2 x interleaved": {**EP2, **CHUNKS, **PADDED, "recompute_layers_per_stage": (1, 1)},
    "ep2 x pp2, zero1": {**EP2, **STAGES, **ZERO1},
    "ep2 x interleaved, zero1": {**EP2, **CHUNKS, **ZERO1},
    "tp2 x pp2": {**TP2, **STAGES},
    "zero3": {"data_parallel": 2, "precision": "bf16", "zero_stage": 3, "hardware": {"device": "cuda"}},
}
ERRORS: dict[Workaround, tuple[dict[str, Any], str]] = {
    "expert-gradients": ({**COPIES, **FEW_TOKENS}, ".experts."),
    "expert-average": ({**EP2, **STAGES}, ".experts."),
    "router-gradients": (STAGES, ".gate."),
}
"""What the library does with a workaround switched off: a layout, and part of the name of what is most wrong."""

LONGEST = 0.5
NORMS = ("one, recomputed", "ep2", "ep2 of four, zero1", "ep2 x tp2, padded", "ep2 x pp2")
"""Layouts whose gradients are clipped."""
HUB: dict[str, Any] = {**COPIES, "num_microbatches": 2}
"""Micro batches of one sequence."""
VISITED: dict[str, dict[str, Any]] = {
    "fp32": {
        "tp2-pp2": {**TP2, **STAGES, "num_microbatches": 8},
        "ep4": {"data_parallel": 4, "expert_parallel": 4, "num_microbatches": 2},
        "ep2-pp2": {**EP2, **STAGES, "num_microbatches": 4},
    },
    "bf16": {"ep2-tp2-zero1": {**EP2, **TP2, "zero_stage": 1, "num_microbatches": 4}},
}
"""Layouts that go on from a checkpoint of ``HUB``, and it from theirs; a loss of micro batches asks for equal ones."""
TIMEOUT_S = 480


class Clipped(NamedTuple):
    """Norms of the gradients of some steps, and the loss of a batch after them."""

    norms: list[float | None]
    evaluated: float
    load: tuple[float, ...] = ()
    """Shares of the experts of the layer with the fullest one."""


class Found(NamedTuple):
    """What rank 0 found."""

    verified: dict[str, Verification | None]
    clipped: dict[str, Clipped]
    faults: dict[str, dict[str, list[str]]]
    """By precision and layout, of checkpoints."""
    loaded: tuple[float, float] = (0.0, 0.0)
    """The loss of a batch by an engine, and by Transformers with what the engine saved."""


def case_plan(*, balanced: bool = True, **fields: Any) -> Plan:
    own = fields.get("model", {})
    experts = MIXTRAL["experts"] | own.get("experts", {}) | ({} if balanced else {"balance_loss": 0.0})
    return make_plan(**{**fields, "model": {**MIXTRAL, **own, "experts": experts}})


def _all_of(world: int, folder: Path, _: int) -> Found:
    from runtime.engines import plugins
    from runtime.patches import router_loss
    from runtime.patches.experts import MixtralShardPolicy, RoutedExperts

    verified = {name: _verified(fields, world) for name, fields in LAYOUTS.items()}
    right = dict(vars(plugins)), dict(vars(router_loss))
    for name, (fields, _name) in ERRORS.items():
        verified[name] = _verified(fields, world, name)
        vars(plugins).update(right[0])
        vars(router_loss).update(right[1])
        MixtralShardPolicy.block_type = RoutedExperts
    plans = {name: case_plan(balanced=False, **LAYOUTS[name]) for name in NORMS}
    clipped = {name: _clipped(plan) for name, plan in plans.items() if plan.layout.num_devices == world}
    return Found(verified, clipped, *(_visited(folder) if world == 4 else ({},)))


def _fresh() -> None:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    # The library remembers over which ranks it divided tensors of the model before.
    clear_layout_converter()


def _verified(fields: dict[str, Any], world: int, *without: Workaround) -> Verification | None:
    from runtime.verify.steps import verify

    _fresh()
    plan = case_plan(**fields)
    if plan.layout.num_devices != world:
        return None
    if plan.layout.zero_stage == SHARDS_WEIGHTS:
        _divide_on_host()
    return verify(plan, steps=2, seed=7, without=without)


def _divide_on_host() -> None:
    """Have the next verification make an engine of ZeRO stage 3 that runs here."""
    from runtime.verify import steps
    from tests.runtime.saving import make

    right = vars(steps)["make_engine"]

    def make_once(plan: Plan, *, seed: int, learning_rate: float, **_: Any) -> Any:
        vars(steps)["make_engine"] = right
        engine = make(plan, seed)
        engine.set_learning_rate(learning_rate)
        return engine

    vars(steps)["make_engine"] = make_once


def _clipped(plan: Plan) -> Clipped:
    from runtime.train.clipping import Clipping
    from runtime.train.expert_load import expert_load
    from tests.runtime.saving import make
    from tests.runtime.training import SEED, own_batches

    _fresh()
    engine = make(plan, SEED)
    clipping, norms, own = Clipping(engine, LONGEST), [], list(own_batches(engine, plan))
    for batch in own:
        engine.step(batch)
        norms.append(clipping.norm)
    return Clipped(norms, engine.evaluate(own[0]), tuple(expert_load(engine)["expert_load"]))


def _plain(plan: Plan) -> Clipped:
    """Of plain PyTorch in fp32."""
    import torch
    from torch.nn import functional

    from tests.runtime.saving import RATE
    from tests.runtime.training import batches, plain_steps

    norms: list[float | None] = []
    for _, stepped in plain_steps(plan, torch.optim.AdamW, RATE):
        model: Any = stepped
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST)))
    first = batches(plan)[0]
    with torch.no_grad():
        logits = model(first["input_ids"]).logits
    return Clipped(norms, float(functional.cross_entropy(logits.flatten(0, 1), first["labels"].flatten())))


def _visited(folder: Path) -> tuple[dict[str, dict[str, list[str]]], tuple[float, float]]:
    from tests.runtime.checkpoints.test_checkpoints import round_trips

    faults = {}
    for precision, layouts in VISITED.items():
        _fresh()
        common: dict[str, Any] = {"precision": precision}
        plans = {name: case_plan(**common, **fields) for name, fields in layouts.items()}
        faults[precision] = round_trips(case_plan(**common, **HUB), plans, folder / precision)
    return faults, _loaded(folder)


def _loaded(folder: Path) -> tuple[float, float]:
    import torch
    import torch.distributed as dist
    from torch.nn import functional
    from transformers import AutoModelForCausalLM

    from tests.runtime.saving import make, save
    from tests.runtime.training import batches, own_batches

    _fresh()
    plan = case_plan(**HUB)
    engine = make(plan)
    evaluated = engine.evaluate(next(own_batches(engine, plan)))
    checkpoint = save(engine, plan, folder / "exported", 0)
    if dist.get_rank():
        return evaluated, 0.0
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    first = batches(plan)[0]
    with torch.no_grad():
        logits = model(first["input_ids"]).logits
    return evaluated, float(functional.cross_entropy(logits.flatten(0, 1), first["labels"].flatten()))


def _references(_: int) -> dict[str, Clipped]:
    return {name: _plain(case_plan(balanced=False, **LAYOUTS[name])) for name in NORMS}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    whole = Found({}, {}, {})
    for world in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        own = run_ranks(world, partial(_all_of, world, folder), folder, timeout_s=TIMEOUT_S)[0]
        verified = {name: one for name, one in own.verified.items() if one is not None}
        whole = Found(whole.verified | verified, whole.clipped | own.clipped, own.faults, own.loaded)
    return whole


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Clipped]:
    expected: dict[str, Clipped] = run_ranks(1, _references, tmp_path_factory.mktemp("plain"))[0]
    return expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_agrees_with_one_process(name: str, found: Found) -> None:
    verification = found.verified[name]
    assert isinstance(verification, Verification)
    assert verification.holds, verification
    own = LAYOUTS[name].get("model", {})
    of_layer = 7 + 3 * own.get("experts", MIXTRAL["experts"])["count"]
    assert verification.num_parameters == 4 * of_layer + (2 if own.get("tied_embeddings", True) else 3)
    assert all(step.routing is not None for step in verification.steps)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_library_is_found(name: Workaround, found: Found) -> None:
    verification = found.verified[name]
    assert isinstance(verification, Verification)
    assert not verification.holds
    first = verification.steps[0]
    assert first.loss_difference == pytest.approx(0.0, abs=1e-6)
    assert ERRORS[name][1] in first.gradient.parameter
    assert first.gradient.value is not None
    assert first.gradient.value > 0.1


@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_clipped_by_the_norm_of_one_process(name: str, found: Found, plain: dict[str, Clipped]) -> None:
    in_fp32 = LAYOUTS[name].get("precision") is None
    bound, count = (2e-5, 3) if in_fp32 else (2e-2, 1)  # rounded weights send tokens elsewhere
    assert min(norm for norm in plain[name].norms if norm is not None) > LONGEST
    assert found.clipped[name].norms[:count] == pytest.approx(plain[name].norms[:count], rel=bound)
    assert found.clipped[name].evaluated == pytest.approx(plain[name].evaluated, rel=bound)


@pytest.mark.parametrize("name", ["ep2", "ep2 x pp2"])
def test_the_load_of_experts_is_that_of_all_ranks_and_stages(name: str, found: Found) -> None:
    of_one = found.clipped["one, recomputed"].load
    assert sum(of_one) == pytest.approx(1.0)
    assert max(of_one) > 1.1 / len(of_one)
    assert found.clipped[name].load == pytest.approx(of_one, abs=0.01)


@pytest.mark.parametrize("precision", VISITED)
def test_every_layout_goes_on_from_every_other(precision: str, found: Found) -> None:
    """The losses of a layout are those of a run without a break; its states those of another, bit by bit."""
    assert found.faults[precision] == {name: [] for name in VISITED[precision]}


def test_transformers_reads_what_divided_experts_saved(found: Found) -> None:
    by_engine, by_transformers = found.loaded
    assert by_engine == pytest.approx(by_transformers, rel=1e-6)
