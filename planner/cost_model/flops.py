"""Arithmetic of one micro batch and of one step. A multiply-add counts 2."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.parts import Block, block, block_of, without_experts
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, microbatch_tokens, padded_vocab


class LayerProducts(NamedTuple):
    """FLOP of the matrix products of one layer's forward pass on one rank, for one micro batch."""

    weights: dict[str, Floats]
    """Of the products with weights, by their names."""
    attention_scores: Floats
    attention_values: Floats


@formula("narayanan2021", "shoeybi2019")
def layer_products(problem: Problem, stages: StageColumns) -> LayerProducts:
    """FLOP per matrix product: ``2 T i o/t`` for a weight of ``i`` by ``o``, ``2 T s q/t`` and ``2 T s v/t``.

    ``T`` tokens of the micro batch, ``t`` the ranks that divide it: tensor-parallel and, by tokens or by heads, those
    of all-to-all; a weight that tensor parallelism copies is multiplied with all tokens, or with the rank's slice of
    them. The other two are of scores and values, ``q`` and ``v`` the widths of queries and values of all heads.
    Attention counts every score, also the masked half that a causal kernel skips. Units: FLOP.
    """
    model, columns = problem.model, stages.layouts
    ranks = columns.tensor_parallel * columns.sequence_parallel_degree
    token_share = 2.0 * microbatch_tokens(problem, columns) / ranks
    scores = token_share * problem.seq_len * model.query_size
    values = token_share * problem.seq_len * model.value_size
    whole = np.where(columns.sequence_parallel == 1, 1, columns.tensor_parallel)
    weights = {
        product.name: (token_share * whole if product.divided == "neither" else token_share)
        * product.inner
        * product.stacked
        * product.width
        for product in block(problem).products
    }
    return LayerProducts(weights=weights, attention_scores=scores, attention_values=values)


@formula("jiang2023", "definition")
def attended_share(problem: Problem) -> float:
    """Scores that are not masked, as a share of all ``s^2``: ``w/s (1 - w / 2s)`` with a window of ``w`` tokens."""
    window = min(problem.model.attention.sliding_window or problem.seq_len, problem.seq_len) / problem.seq_len
    return window * (1.0 - window / 2.0)


@formula("narayanan2021")
def head_product(problem: Problem, stages: StageColumns) -> Floats:
    """FLOP of the loss head's forward product on one rank: ``2 T h v/t``, on the last stage only."""
    columns = stages.layouts
    vocab_share = padded_vocab(problem, columns) / columns.tensor_parallel
    tokens = microbatch_tokens(problem, columns) / columns.sequence_parallel_degree
    product = 2.0 * tokens * problem.model.hidden_size * vocab_share
    return np.where(stages.is_last, product, 0.0)


@formula("narayanan2021")
def model_flops_per_step(problem: Problem) -> float:
    """FLOP that one optimizer step needs by the model alone: ``3 (L (2 T w + 4 T s q) + 2 T h v)``.

    ``T`` tokens of the global batch, ``w`` weights of a layer's products, of experts those that a token passes, ``q``
    the mean width of queries and values. Forward plus
    twice that for backward; recomputation, padding and the causal mask do not change it, and a sliding window leaves
    twice the scores that it does not mask. With GPT-2's parts and ``f = 4 h`` this is ``72 T L h^2 (1 + s / 6h +
    v / 12 L h)``. Units: FLOP.
    """
    model = problem.model
    tokens = float(problem.global_batch * problem.seq_len)
    scored = 2 * tokens * problem.seq_len * (model.query_size + model.value_size) * (2.0 * attended_share(problem))
    layer = _passed_flops(tokens, block(problem)) + scored
    dense = _passed_flops(tokens, block_of(without_experts(model))) + scored
    layers = (model.num_layers - model.dense_layers) * layer + model.dense_layers * dense
    return 3 * (layers + 2 * tokens * model.hidden_size * model.vocab_size)


def _passed_flops(tokens: float, own: Block) -> float:
    """FLOP of the forward products of one block, of the experts that tokens pass."""
    passed = 0.0
    for part in own.parts:
        passed += 2 * tokens * sum(product.inner * product.outer for product in part.products)
    if own.routed is not None:
        passed += 2 * tokens * own.routed.top_k * sum(p.inner * p.outer for p in own.routed.products)
    return passed
