"""Arithmetic of one micro batch and of one step. A multiply-add counts 2."""

from typing import NamedTuple

import numpy as np

from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, microbatch_tokens, padded_vocab


class LayerProducts(NamedTuple):
    """FLOP of the matrix products of one layer's forward pass on one rank, for one micro batch."""

    qkv: Floats
    attention_scores: Floats
    attention_values: Floats
    attention_output: Floats
    ffn_in: Floats
    ffn_out: Floats


@formula("narayanan2021", "shoeybi2019")
def layer_products(problem: Problem, stages: StageColumns) -> LayerProducts:
    """FLOP per matrix product: ``2 T h 3h/t``, ``2 T s h/t`` twice, ``2 T h h/t``, ``2 T h f/t`` twice.

    ``T`` tokens of the micro batch, ``t`` tensor-parallel degree. Attention counts every score, also
    the masked half that a causal kernel skips. Units: FLOP.
    """
    model, columns = problem.model, stages.layouts
    token_share = 2.0 * microbatch_tokens(problem, columns) / columns.tensor_parallel
    h, f = model.hidden_size, model.ffn_hidden_size
    scores = token_share * problem.seq_len * h
    return LayerProducts(
        qkv=token_share * h * 3 * h,
        attention_scores=scores,
        attention_values=scores,
        attention_output=token_share * h * h,
        ffn_in=token_share * h * f,
        ffn_out=token_share * h * f,
    )


@formula("narayanan2021")
def head_product(problem: Problem, stages: StageColumns) -> Floats:
    """FLOP of the loss head's forward product on one rank: ``2 T h v/t``, on the last stage only."""
    columns = stages.layouts
    vocab_share = padded_vocab(problem, columns) / columns.tensor_parallel
    product = 2.0 * microbatch_tokens(problem, columns) * problem.model.hidden_size * vocab_share
    return np.where(stages.is_last, product, 0.0)


@formula("narayanan2021")
def model_flops_per_step(problem: Problem) -> float:
    """FLOP that one optimizer step needs by the model alone: ``3 (L (8 T h^2 + 4 T h f + 4 T s h) + 2 T h v)``.

    ``T`` tokens of the global batch. Forward plus twice that for backward; recomputation, padding
    and the causal mask do not change it. With ``f = 4 h`` this is
    ``72 T L h^2 (1 + s / 6h + v / 12 L h)``. Units: FLOP.
    """
    model = problem.model
    tokens = float(problem.global_batch * problem.seq_len)
    h, f = model.hidden_size, model.ffn_hidden_size
    layer = 8 * tokens * h * h + 4 * tokens * h * f + 4 * tokens * problem.seq_len * h
    return 3 * (model.num_layers * layer + 2 * tokens * h * model.vocab_size)
