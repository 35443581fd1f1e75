"""Compiled blocks and loss: the gradients of one process, in every layout that is compiled.

Regions are traced and differentiated as for a GPU, but run by PyTorch's own kernels: a C++ compiler would take most of
the time here. Ranks are started once for all layouts of as many processes.
"""

from functools import partial
from typing import Any

import pytest
import torch

from planner.cost_model.parts import remade_elements
from planner.handover.verification import Verification
from planner.plans.plan import Plan
from tests.runtime.conftest import compiled, make_plan, run_ranks
from tests.runtime.family_models import MODELS
from tests.runtime.zero_bubble_ranks import watched

pytestmark = pytest.mark.runtime

STAGES: dict[str, Any] = {"pipeline_parallel": 2, "num_microbatches": 2}
V: dict[str, Any] = {**STAGES, "schedule": "zbv", "num_model_chunks": 2}
LLAMA, PADDED = {"model": MODELS["llama"]}, {"model": MODELS["qwen2"] | {"vocab_size": 101}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "one, recomputing": {"recompute_layers_per_stage": (2,)},
    "one, in bf16": {"precision": "bf16", "num_microbatches": 2},
    "one, recomputing pointwise": {"recompute_pointwise": True, "recompute_layers_per_stage": (1,)},
    "llama, recomputing pointwise": {**LLAMA, "recompute_pointwise": True},
    "llama, in bf16": {**LLAMA, "precision": "bf16"},
    "tp2": {"tensor_parallel": 2},
    "tp2, sequence parallel": {**{"tensor_parallel": 2, "sequence_parallel": True, "recompute_layers_per_stage": (2,)}},
    "llama tp2, padded": {**PADDED, "tensor_parallel": 2},
    "interleaved": {**STAGES, "schedule": "interleaved", "num_model_chunks": 2},
    "zero1": {"precision": "bf16", "data_parallel": 2, "zero_stage": 1, "recompute_layers_per_stage": (2,)},
    "llama zero2, in two": {**LLAMA, "precision": "bf16", "data_parallel": 2, "zero_stage": 2, "num_microbatches": 2},
    "zero-bubble": V,
    "zero-bubble, recomputing": {**V, "recompute_layers_per_stage": (1, 2)},
    "llama zero-bubble, in bf16": {**V, **LLAMA, "precision": "bf16"},
    "dp2, in bf16": {"precision": "bf16", "data_parallel": 2},
    "all-to-all": {**LLAMA, "sequence_parallel_degree": 2},
}
LEFT_TO_W = {"zero-bubble": 4, "llama zero-bubble, in bf16": 7}
"""Layouts whose weights have their gradients from W, and the products of a layer."""
ROWS = 2
CHUNK_TOKENS = 48
"""Less than those of a micro batch, and no divisor of them."""
TIMEOUT_S = 480

Found = dict[Any, Any]


def _kept(plan: Plan, *, recomputes_pointwise: bool) -> tuple[int, float]:
    """Bytes that blocks and loss of a whole model keep for backward, and the loss."""
    from runtime.compiled import compile_regions
    from runtime.states.model import DTYPES, build_model

    torch._dynamo.reset()
    model: Any = build_model(plan.problem.model, 3, dtype=DTYPES["bf16"])
    compile_regions(model, recomputes_pointwise=recomputes_pointwise)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(5)
    rows = torch.randint(0, plan.problem.model.vocab_size, (ROWS, plan.problem.seq_len))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(input_ids=rows, labels=rows)["loss"]
    return sum(found.values()), float(loss)


def _gradients_with_dropout(*, compiles: bool) -> tuple[float, torch.Tensor]:
    """The loss and all gradients of a block, by the kernels that are compiled here."""
    from runtime.compiled import compile_regions
    from runtime.states.model import DTYPES, build_model

    plan = make_plan(model={"num_layers": 1, "dropout": 0.2})
    model: Any = build_model(plan.problem.model, 3, dtype=DTYPES["fp32"])
    if compiles:
        compile_regions(model)
    torch.manual_seed(5)
    rows = torch.randint(0, plan.problem.model.vocab_size, (ROWS, plan.problem.seq_len))
    loss = model.train()(input_ids=rows, labels=rows)["loss"]
    loss.backward()
    return float(loss), torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _all_of(world: int, _: int) -> Found:
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.patches import loss_head
    from runtime.verify.steps import verify

    compiler, loss_head.CHUNK_TOKENS = torch.compile, CHUNK_TOKENS
    torch.compile = partial(compiler, backend="aot_eager")
    found: Found = {}
    for name, fields in LAYOUTS.items():
        plan = compiled(make_plan(**fields))
        if plan.layout.num_devices != world:
            continue
        clear_layout_converter()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        found[name] = verify(plan, steps=2, seed=7)
        found[name, "graphs"] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        if name in LEFT_TO_W:
            found[name, "products"] = watched(plan).products
    if world == 1:
        torch.compile = compiler
        found["dropout"] = [_gradients_with_dropout(compiles=compiles) for compiles in (False, True)]
        torch.compile = partial(compiler, backend="aot_eager_decomp_partition")
        for family in ("gpt2", "llama"):
            plan = _whole(family)
            found[family, "kept"] = [_kept(plan, recomputes_pointwise=again) for again in (False, True)]
    return found


def _whole(family: str) -> Plan:
    return make_plan(model={} if family == "gpt2" else MODELS[family])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    whole: Found = {}
    for world in (1, 2):
        folder = tmp_path_factory.mktemp(f"compiled{world}")
        whole |= run_ranks(world, partial(_all_of, world), folder, timeout_s=TIMEOUT_S)[0]
    return whole


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_compiled_layout_agrees_with_one_process(name: str, found: Found) -> None:
    verification = found[name]
    assert isinstance(verification, Verification)
    assert verification.holds, verification


@pytest.mark.parametrize("name", LAYOUTS)
def test_all_blocks_are_compiled_once(name: str, found: Found) -> None:
    """Of one graph, or those between what runs as it is, which recomputing without a graph needs twice.

    Four for the loss.
    """
    pieces = 16 if "tp2" in name or name == "all-to-all" else 1
    pieces *= 2 if name == "zero-bubble, recomputing" else 1
    assert 0 < found[name, "graphs"] <= pieces + 4


@pytest.mark.parametrize("name", LEFT_TO_W)
def test_every_product_of_a_compiled_block_leaves_its_weight_to_w(name: str, found: Found) -> None:
    micro_batches, chunks = make_plan(**LAYOUTS[name]).layout.num_microbatches, 2
    assert found[name, "products"] == [LEFT_TO_W[name]] * micro_batches * chunks


def test_a_block_with_layers_of_the_library_leaves_products_as_it_does_uncompiled() -> None:
    from colossalai.shardformer.layer import Linear1D_Row

    from runtime.patches import compiled_products, weight_gradients

    class Divided(torch.nn.Linear):
        __module__ = Linear1D_Row.__module__

    block = torch.nn.Sequential(torch.nn.Linear(2, 2), Divided(2, 2))
    compiled_products.let_defer(block)
    weight_gradients.defer_products([block])
    assert type(block[0]) is weight_gradients.DeferredLinear
    assert type(block[1]) is Divided


def test_dropout_draws_what_it_draws_uncompiled(found: Found) -> None:
    (loss, gradients), (same, compiled_gradients) = found["dropout"]
    assert same == pytest.approx(loss, rel=1e-6)
    assert float((compiled_gradients - gradients).norm() / gradients.norm()) < 1e-5


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_blocks_keep_less_by_what_is_counted(family: str, found: Found) -> None:
    """Of Llama also a copy of attention's output that is made here and not on a GPU.

    Both statistics of both norms of a layer are then kept in float32 and not in bf16, 2 bytes more each.
    """
    problem = _whole(family).problem
    (keeping, loss), (again, same) = found[family, "kept"]
    tokens = problem.model.num_layers * ROWS * problem.seq_len
    states, statistics = tokens * problem.model.hidden_size * 2, tokens * 2 * 2 * 2
    counted = states * sum(remade_elements(problem))
    assert counted - statistics <= keeping - again <= counted + states * (family != "gpt2")
    assert loss == pytest.approx(same, rel=1e-3)
