"""The trainer that a plan is compared with is the plan's model, and there is one for the plans it says."""

import math

import msgspec
import pytest
import torch

from benchmarks.against_pytorch import COLUMNS, Run, refusal, row_of
from benchmarks.peer import Gpt, Work
from planner.cost_model.parameters import model_parameters
from planner.specs import ModelSpec
from planner.specs.files import load_spec
from tests.runtime.conftest import make_plan

pytestmark = pytest.mark.runtime


def work_of(model: ModelSpec) -> Work:
    return Work(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
        ffn_hidden_size=model.ffn_hidden_size,
        vocab_size=model.vocab_size,
        seq_len=model.max_seq_len,
        dropout=0.0,
        global_batch=2,
        micro_batch=1,
        steps=4,
        device="cpu",
    )


def test_it_has_the_weights_of_the_model_with_a_padded_vocabulary() -> None:
    model = load_spec("gpt2-tiny", ModelSpec)
    peer = Gpt(work_of(model))
    padding = (-model.vocab_size % 64) * model.hidden_size
    assert sum(one.numel() for one in peer.parameters()) == sum(model_parameters(model).values()) + padding


def test_its_loss_begins_as_that_of_a_guess_and_has_a_gradient_everywhere() -> None:
    torch.manual_seed(0)
    model = load_spec("gpt2-tiny", ModelSpec)
    peer = Gpt(work_of(model))
    tokens = torch.randint(0, model.vocab_size, (2, 17))
    loss = peer(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(model.vocab_size), rel=0.05)
    assert all(one.grad is not None for one in peer.parameters())


def test_plans_without_a_peer_are_refused() -> None:
    plan = make_plan(precision="bf16")
    assert refusal(plan) == ""
    assert "4 devices" in refusal(make_plan(precision="bf16", data_parallel=4))
    assert "in fp32" in refusal(make_plan())


def test_a_row_has_every_column() -> None:
    plan = make_plan(precision="bf16")
    row = row_of(plan, Run(8, 0.5, 10), Run(4, 1.0, 20), "2.11.0")
    assert tuple(row) == COLUMNS
    assert (row["step_s"], row["peer_step_s"], row["peer_micro_batch"]) == (0.5, 1.0, 4)
    assert msgspec.json.encode(row)
