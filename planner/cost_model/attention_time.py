"""Time that the attention of one layer computes for one micro batch."""

import numpy as np

from planner.cost_model.flops import attended_share, layer_products
from planner.cost_model.products import BACKWARD_PRODUCTS, Passes, matrix_seconds, product_seconds, traffic_seconds
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.layouts.layout import SHARDS_WEIGHTS
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, once_per_places
from planner.specs import ELEMENT_BYTES, Attention

FLASH_BACKWARD = 2.5
"""FLOP of backward for each of forward in kernels that store no scores: five products to two, scores made again."""
SMALL_HEAD = 64
"""Units that the smallest tiles of attention kernels hold."""
_USUAL_TOKENS = 2048
"""Tokens of the sequences with which the rates of attention kernels are measured."""


@formula("dao2022", "korthikanti2022")
@once_per_places
def attention_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """The attention products of one layer, and the scores' way through memory.

    A flash kernel computes half of the scores, the others all; kernels that store scores move each as
    often as the stack counts. Kernels that store none run at an efficiency of their own, if the stack or
    the card has one: :func:`kernel_attention_seconds`. Units: s.
    """
    kind, under_zero_3 = problem.stack.activations.attention, problem.stack.sharded.attention
    plain = _attention(problem, stages, kind)
    if under_zero_3 in (None, kind):
        return plain
    other, in_pieces = _attention(problem, stages, under_zero_3), stages.layouts.zero_stage >= SHARDS_WEIGHTS
    return Passes(*(np.where(in_pieces, own, usual) for own, usual in zip(other, plain, strict=True)))


def _attention(problem: Problem, stages: StageColumns, kind: Attention | None) -> Passes:
    stack, products = problem.stack, layer_products(problem, stages)
    computed = attended_share(problem) if kind == "flash" else 1.0
    flops = (products.attention_scores * computed, products.attention_values * computed)
    stores_scores = kind in ("materialised", "recomputed")
    if stack.traffic.attention_efficiency is not None and not stores_scores:
        return kernel_attention_seconds(problem, flops[0] + flops[1], kind == "flash")
    if not stores_scores:
        seconds = product_seconds(problem, flops[0]) + product_seconds(problem, flops[1])
        return Passes(seconds, BACKWARD_PRODUCTS * seconds)
    side, depth = float(problem.seq_len), float(problem.model.head_size)
    heads = rank_tokens(problem, stages) / side * problem.model.num_heads * shares(stages.layouts).split_hidden
    seconds = matrix_seconds(problem, side, side, depth, heads) + matrix_seconds(problem, side, depth, side, heads)
    scores = heads * side * side * ELEMENT_BYTES[problem.precision]
    seconds = seconds + traffic_seconds(problem, scores * stack.traffic.score_elements)
    return Passes(seconds, BACKWARD_PRODUCTS * seconds)


@formula("dao2022")
def kernel_attention_seconds(problem: Problem, flops: Floats, causal: bool) -> Passes:
    """Attention kernels that store no scores, of which ``flops`` are those of forward.

    Either at the stack's share of the peak times the card's, which counts five products in backward to the two of
    forward; or, by causal kernels written for the card, at its shares for forward and, of twice the FLOP, for
    backward, with heads filled up to whole tiles and, where the model drops scores, the FLOP that this takes for
    each. Units: s.
    """
    traffic, efficiency, model = problem.stack.traffic, problem.hardware.efficiency, problem.model
    peak = problem.hardware.peak_flops_per_s[problem.precision]
    if not (traffic.native_attention and causal) or efficiency.native_attention is None:
        small = problem.stack.parts.head_share if model.head_size <= SMALL_HEAD else 1.0
        seconds = flops / (peak * (traffic.attention_efficiency or 1.0) * efficiency.attention * small)
        return Passes(seconds, FLASH_BACKWARD * seconds)
    head, tile = model.head_size, efficiency.native_attention_head
    filled = -(-head // tile) * tile / head
    # Two products of 2 FLOP for each score and unit of a head.
    dropped = flops / (4.0 * head) * traffic.attention_dropout_flops * (model.dropout > 0)
    forward, backward = native_attention_shares(problem, head * filled)
    usual = efficiency.native_attention
    return Passes(
        flops * filled / (peak * forward) + dropped / (peak * usual[0]),
        BACKWARD_PRODUCTS * flops * filled / (peak * backward) + dropped / (peak * usual[1]),
    )


@formula("definition")
def native_attention_shares(problem: Problem, head: float) -> tuple[float, float]:
    """Shares of the peak that kernels written for the card reach forward and backward, with heads filled to ``head``.

    Each sequence takes what ``s`` tokens more would, so that the share of 2,048 tokens becomes
    ``(2048 + s) / 2048 T / (T + s)`` of it with ``T`` tokens; small heads keep a part.
    """
    efficiency, tokens = problem.hardware.efficiency, float(problem.seq_len)
    assert efficiency.native_attention is not None, "the card has such kernels"
    small = efficiency.native_attention_small_head if head <= SMALL_HEAD else (1.0, 1.0)
    longer = [(_USUAL_TOKENS + s) / _USUAL_TOKENS * tokens / (tokens + s) for s in efficiency.native_attention_tokens]
    forward, backward = (
        share * part * factor for share, part, factor in zip(efficiency.native_attention, small, longer, strict=True)
    )
    return forward, backward
