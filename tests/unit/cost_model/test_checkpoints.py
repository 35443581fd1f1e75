"""What a checkpoint takes, on a model small enough to count by hand."""

import pytest

from planner.cost_model.checkpoints import checkpoint_cost
from tests.helpers import layout, problem

# 4 layers of 3280 parameters, an embedding of 2048, positions of 128 and a norm of 32.
PARAMETERS = 4 * 3280 + 2048 + 128 + 32


def test_checkpoint_cost_by_hand() -> None:
    cost = checkpoint_cost(problem(num_devices=1), layout())
    assert cost.num_bytes == 12 * PARAMETERS == 183_936
    assert cost.copied_bytes == 12 * PARAMETERS
    assert cost.assembled_bytes == 3 * 4 * 128 * 16  # the embedding
    assert cost.stall_s == pytest.approx(183_936 / 5e8)  # over the link to the host
    assert cost.write_s == pytest.approx(183_936 / 1e8)
    assert cost.host_bytes(2) == 2 * (183_936 + 24_576)


def test_ranks_of_a_stage_share_its_copies_and_nodes_their_drives() -> None:
    divided = layout(tensor_mode="1d", tensor_parallel=2, pipeline_parallel=2, data_parallel=2, layers_per_stage=(1, 3))
    cost = checkpoint_cost(problem(num_devices=8), divided)
    assert cost.num_bytes == 183_936
    assert cost.copied_bytes == 12 * (3 * 3280 + 32) // 4  # the second stage, whose tied head the first one saves
    assert cost.write_s == pytest.approx(183_936 / 2e8)  # two nodes of four
    untied = checkpoint_cost(problem(num_devices=8, model={"tied_embeddings": False}), divided)
    assert untied.copied_bytes == 12 * (3 * 3280 + 32 + 2048) // 4


def test_on_cores_copies_go_through_memory() -> None:
    cost = checkpoint_cost(problem(num_devices=1, hardware={"device": "cpu"}), layout())
    assert cost.stall_s == pytest.approx(183_936 / 4e9)
