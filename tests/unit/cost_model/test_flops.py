"""Arithmetic of the matrix products, by hand."""

import pytest

from planner.cost_model.flops import attended_share, head_product, layer_products, model_flops_per_step
from tests.helpers import problem, stages

BOTH_AXES = {"sequence_parallel_degree": 2, "tensor_parallel": 2}


def test_layer_products_by_hand() -> None:
    products = layer_products(problem(), stages())
    assert products.weights["qkv"].tolist() == [2 * 8 * 16 * 48] == [12288]
    assert products.attention_scores.tolist() == [2 * 8 * 8 * 16] == [2048]
    assert products.attention_values.tolist() == [2048]
    assert products.weights["attention_output"].tolist() == [2 * 8 * 16 * 16] == [4096]
    assert products.weights["ffn_in"].tolist() == [2 * 8 * 16 * 64] == [16384]
    assert products.weights["ffn_out"].tolist() == [16384]


def test_layer_products_are_shared_by_tensor_parallel_ranks() -> None:
    products = layer_products(problem(), stages(tensor_parallel=4, micro_batch=2, num_microbatches=4))
    assert products.weights["qkv"].tolist() == [12288 * 2 / 4]
    assert products.attention_scores.tolist() == [2048 * 2 / 4]


def test_head_product_is_on_the_last_stage_only() -> None:
    assert head_product(problem(), stages(pipeline_parallel=2)).tolist() == [0, 32768]  # 2 * 8 * 16 * 128


def test_head_product_works_on_the_padded_vocabulary() -> None:
    padded = head_product(problem(model={"vocab_size": 100}), stages())
    assert padded.tolist() == [2 * 8 * 16 * 112]


def test_model_flops_per_step_by_hand() -> None:
    # 64 tokens; a layer: qkv and output 8 * 64 * 256, feed-forward 4 * 64 * 1024, scores 4 * 64 * 8 * 16.
    layer = 131072 + 262144 + 32768
    head = 262144  # 2 * 64 * 16 * 128
    assert model_flops_per_step(problem()) == 3 * (4 * layer + head) == 5898240


def test_model_flops_per_step_agree_with_the_published_closed_form() -> None:
    published = 72 * 64 * 4 * 16**2 * (1 + 8 / (6 * 16) + 128 / (12 * 4 * 16))
    assert model_flops_per_step(problem()) == pytest.approx(published)


def test_attended_share_of_a_window() -> None:
    assert attended_share(problem()) == 0.5
    windowed = problem(model={"attention": {"sliding_window": 4}})
    assert attended_share(windowed) == 0.5 * (1 - 0.25)  # 4 of 8 tokens: 1 + 2 + 3 + 5 * 4 of 64, as an integral
    assert attended_share(problem(model={"attention": {"sliding_window": 100}})) == 0.5
    scores = 4 * 64 * 8 * 16
    assert model_flops_per_step(problem()) - model_flops_per_step(windowed) == 3 * 4 * scores * 0.25


def test_layer_products_are_divided_by_every_rank_that_shares_a_sequence() -> None:
    plain, divided = (layer_products(problem(), stages(**degrees)) for degrees in ({}, BOTH_AXES))
    assert (plain.weights["qkv"] / divided.weights["qkv"]).tolist() == [4.0]
    assert (plain.attention_scores / divided.attention_scores).tolist() == [4.0]
