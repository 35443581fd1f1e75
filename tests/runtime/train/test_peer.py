"""The trainer that a plan is compared with is the plan's model, and there is one for the plans it says."""

import math

import msgspec
import pytest
import torch

from benchmarks.against_pytorch import COLUMNS, Run, refusal, row_of, work_of
from benchmarks.peer import Gpt
from planner.cost_model.parameters import model_parameters
from tests.runtime.conftest import make_plan

pytestmark = pytest.mark.runtime


def test_it_has_the_weights_of_the_model_with_a_padded_vocabulary() -> None:
    plan = make_plan()
    model, length = plan.problem.model, plan.problem.seq_len
    peer = Gpt(work_of(plan, 4, 1))
    padding = (-model.vocab_size % 64) * model.hidden_size
    # It has as many positions as sequences have tokens.
    places = (model.max_seq_len - length) * model.hidden_size
    assert sum(one.numel() for one in peer.parameters()) == sum(model_parameters(model).values()) + padding - places


def test_its_loss_begins_as_that_of_a_guess_and_has_a_gradient_everywhere() -> None:
    torch.manual_seed(0)
    plan = make_plan()
    vocabulary = plan.problem.model.vocab_size
    peer = Gpt(work_of(plan, 4, 1))
    tokens = torch.randint(0, vocabulary, (2, plan.problem.seq_len + 1))
    loss = peer(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert loss.item() == pytest.approx(math.log(vocabulary), rel=0.05)
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
