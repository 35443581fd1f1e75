"""Documents that are kept apart train as if each were alone, in every layout that can keep them apart."""

import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from planner.diagnostics import PlanError
from planner.plans.plan import Plan
from runtime.states.documents import Documents, segments_of
from runtime.states.model import causal_attention
from tests.runtime.conftest import SEQ_LEN, make_plan, run_ranks
from tests.runtime.family_models import MIXTRAL, MODELS
from tests.runtime.training import LEARNING_RATES, SEED, Batch, Gradients, MakePlan, Ranks, differing

pytestmark = pytest.mark.runtime

END = 3
STEPS = 2
LAYOUTS: dict[str, dict[str, Any]] = {
    "recompute": {"num_microbatches": 4, "recompute_layers_per_stage": (2,)},
    "tp2-sequence": {"tensor_parallel": 2, "sequence_parallel": True, "recompute_layers_per_stage": (1,)},
    "pp2-recompute": {"pipeline_parallel": 2, "num_microbatches": 4, "recompute_layers_per_stage": (2, 1)},
    "dp2-zero2": {"data_parallel": 2, "zero_stage": 2, "precision": "bf16", "num_microbatches": 2},
    "tp2-interleaved": {
        "tensor_parallel": 2,
        "pipeline_parallel": 2,
        "num_microbatches": 2,
        "schedule": "interleaved",
        "num_model_chunks": 2,
        "layers_per_stage": (2, 2),
    },
}
LLAMA_LAYOUTS: dict[str, dict[str, Any]] = {
    "llama-sp2": {"sequence_parallel_degree": 2, "num_microbatches": 2, "model": MODELS["llama"]},
    "mistral-tp2": {"tensor_parallel": 2, "num_microbatches": 2, "model": MODELS["mistral"]},
    "mixtral-ep2": {
        "data_parallel": 2,
        "expert_parallel": 2,
        "num_microbatches": 2,
        "recompute_layers_per_stage": (2,),
        "model": {**MIXTRAL, "experts": {**MIXTRAL["experts"], "balance_loss": 0.0}},
    },
}
TIMEOUT_S = 300


def packed(plan: Plan) -> list[Batch]:
    """Global batches of a small vocabulary, so that documents are of none to many tokens."""
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, 9, (STEPS, plan.problem.global_batch, SEQ_LEN + 1), generator=generator)
    return [{"input_ids": step[:, :-1].contiguous(), "labels": step[:, 1:].contiguous()} for step in tokens]


def trained(plan: Plan, end_of_document: int | None = END) -> tuple[list[float], list[float], list[Gradients]]:
    """Evaluated losses, those of steps, and the gradients of this rank."""
    from colossalai.tensor.d_tensor.api import clear_layout_converter

    from runtime.engines.hybrid import HybridEngine
    from runtime.verify.gradients import watch_gradients

    clear_layout_converter()
    rate = LEARNING_RATES[torch.optim.SGD]
    engine = HybridEngine(
        plan, "cpu", seed=SEED, learning_rate=rate, optimizer=torch.optim.SGD, end_of_document=end_of_document
    )
    found = watch_gradients(engine)
    return *stepped(engine, plan), found


def alone(plan: Plan, optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> tuple[list[float], list[Gradients]]:
    """Losses and gradients of plain PyTorch that is given one document after the other, each from position 0 on."""
    from runtime.states.model import build_model

    model = build_model(plan.problem.model, SEED)
    losses, gradients = [], []
    plain = optimizer(model.parameters(), lr=LEARNING_RATES[optimizer])  # type: ignore[call-arg]
    for batch in packed(plan):
        total = torch.zeros(())
        for tokens, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            ends = (tokens == END).nonzero().flatten() + 1
            sizes = np.diff([0, *ends.tolist(), SEQ_LEN]).tolist()
            for document, wanted in zip(tokens.split(sizes), labels.split(sizes), strict=True):
                if len(document):
                    logits = model(document[None]).logits[0]
                    total = total + functional.cross_entropy(logits, wanted, reduction="sum")
        loss = total / batch["labels"].numel()
        loss.backward()
        losses.append(float(loss))
        gradients.append({name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None})
        plain.step()
        plain.zero_grad()
    return losses, gradients


def stepped(engine: Any, plan: Plan) -> tuple[list[float], list[float]]:
    """Evaluated losses of packed batches, and those of steps."""
    evaluated, losses = [], []
    for batch in packed(plan):
        own = {name: t[engine.rows] for name, t in batch.items()}
        evaluated.append(engine.evaluate(own))
        losses.append(engine.step(own))
    return evaluated, losses


PLANS = {name: partial(make_plan, **fields) for name, fields in {**LAYOUTS, **LLAMA_LAYOUTS}.items()}


def _all_of(world: int, _: int) -> dict[str, Any]:
    plans = {name: make() for name, make in PLANS.items()}
    return {name: trained(plan) for name, plan in plans.items() if plan.layout.num_devices == world}


def _expected(_: int) -> dict[str, Any]:
    return {name: alone(make()) for name, make in PLANS.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """By layout what every rank finds."""
    whole: dict[str, list[Any]] = {}
    for world in (1, 2, 4):
        folder = tmp_path_factory.mktemp(f"ranks{world}")
        everyone = run_ranks(world, partial(_all_of, world), folder, timeout_s=TIMEOUT_S)
        whole |= {name: [rank[name] for rank in everyone] for name in everyone[0]}
    return whole


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(run_ranks(1, _expected, tmp_path_factory.mktemp("alone"), timeout_s=TIMEOUT_S)[0])


@pytest.mark.parametrize("name", PLANS)
def test_losses_and_gradients_are_those_of_every_document_alone(
    name: str, found: dict[str, list[Any]], expected: dict[str, Any]
) -> None:
    losses, gradients = expected[name]
    in_bf16 = PLANS[name]().layout.precision == "bf16"
    for evaluated, own, own_gradients in found[name]:
        assert own == pytest.approx(losses, rel=4e-3 if in_bf16 else 1e-5)
        assert evaluated == pytest.approx(losses, rel=4e-3 if in_bf16 else 1e-5)
        assert in_bf16 or not differing(own_gradients, gradients)


def test_the_comparison_tells_documents_that_are_joined(plan: MakePlan, ranks: Ranks) -> None:
    (joined,) = ranks(1, lambda rank: trained(plan(), end_of_document=None))
    ((_, expected),) = ranks(1, lambda rank: alone(plan()))
    found = differing(joined[2][:1], expected[:1])
    assert found["transformer.wpe.weight"] > 0.5
    assert found["transformer.h.0.attn.c_attn.weight"] > 0.1


def test_a_grid_that_is_told_to_keep_documents_apart_refuses(plan: MakePlan, ranks: Ranks) -> None:
    from runtime.engines import choice

    chosen = plan(tensor_mode="2d", tensor_parallel=4)
    with pytest.raises(PlanError, match="documents cannot be kept apart under tensor mode 2d"):
        choice.make_engine(chosen, seed=SEED, learning_rate=1e-3, end_of_document=END)


def test_documents_end_with_their_token_and_with_their_row() -> None:
    tokens = torch.tensor([[5, END, 1, 2, 4, END], [END, END, 1, 1, 1, 1]])
    found = segments_of(tokens, END)
    assert found.positions.tolist() == [[0, 1, 0, 1, 2, 3], [0, 0, 0, 1, 2, 3]]
    assert [stack.tolist() for stack in found.stacks] == [[[6], [7]], [[0, 1]], [[2, 3, 4, 5], [8, 9, 10, 11]]]
    together = torch.cat([stack.flatten() for stack in found.stacks])
    assert together[found.places].tolist() == list(range(12))


@pytest.mark.parametrize("length", [1, 7, 100, 1000])
def test_padding_is_less_than_a_quarter_and_stacks_are_few(length: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, max(length // 10, 2), (5, length), generator=generator)
    found = segments_of(tokens, 0)
    together = torch.cat([stack.flatten() for stack in found.stacks])
    assert together[found.places].tolist() == list(range(5 * length))
    assert len(together) <= 1.25 * 5 * length
    assert len(found.stacks) <= 8 + 4 * math.log2(length)


@pytest.mark.parametrize("seq_len", [64, 1024])
def test_what_is_kept_for_backward_is_within_what_is_predicted(seq_len: int) -> None:
    generator = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(0, 40, (2, seq_len), generator=generator)
    documents = Documents(END)
    documents.read(tokens)

    def kept_bytes(module: Any) -> int:
        """Of storages that autograd keeps of attention and of a product after it."""
        states, weight = torch.rand(2, seq_len, 3, 4, 8, requires_grad=True), torch.rand(32, 32, requires_grad=True)
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = 0 if tensor is weight else storage.nbytes()
            held.append(tensor)
            return tensor

        held: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            query, key, value = (states * 1.0).permute(2, 0, 3, 1, 4)
            output = causal_attention(module, query, key, value, None)[0].flatten(2)
            (output @ weight).sum()
        return sum(kept.values())

    apart = SimpleNamespace(documents=documents)
    more = documents.during(lambda: kept_bytes(apart), documents=segments_of(tokens, END)) - kept_bytes(None)
    indices = 8 * 2 * 2 * seq_len * 1.25
    assert 0 < more <= 2 * 2 * seq_len * 32 * 4 + indices
