"""Pieces of ZeRO stage 3: which tensors are gathered together, and what padding that takes."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from planner.cost_model.parts import block, block_of, end_tensors
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.specs import ModelSpec, ShardedSpec

SEARCH_STEP = 1024
"""Parameters between the piece sizes that are tried, unless by hidden sizes."""
OUTLIER_DEVIATIONS = 3
"""A tensor this many standard deviations above the mean gets a piece of its own."""


class Pieces(NamedTuple):
    """How the parameters of a model lie in pieces. Units: parameters."""

    layer: int
    """The piece that a tensor of a layer is gathered with."""
    largest: int
    """The largest piece of all; the token embedding is the largest tensor of most models."""
    padding: float
    """Parameters with the unused ends of pieces, over those without."""
    is_sharded: bool
    """False where the model fits less than one piece, which every rank then keeps whole."""


@formula("colossalai0.5.0", "rajbhandari2020")
def pieces(problem: Problem) -> Pieces:
    """The pieces of ZeRO stage 3 under the problem's stack.

    Tensors fill pieces in order; a tensor that does not fit the rest opens a new piece, and one that is
    larger than a piece gets its own. The size is the one of the least waste between the larger of the
    stack's least size and the largest tensor that is no outlier, and the search range above it; a stack
    may keep both within a layer's matrices. Without a least size each layer is a piece, and so is each of
    the embeddings.
    """
    model, sharded, own = problem.model, problem.stack.sharded, block(problem)
    least = sharded.unit_parameters
    if not least:
        return Pieces(sum(own.tensors), max(model.vocab_size * model.hidden_size, own.matrices), 1.0, True)
    tensors = _Tensors(own.tensors, model.num_layers, *_ends(model))
    if sharded.unit_at_most_layer:
        least = min(least, own.matrices)
        return _pieces(tensors, least, min(least, sharded.unit_search_parameters), model.hidden_size)
    return _pieces(tensors, least, sharded.unit_search_parameters, SEARCH_STEP)


class _Tensors(NamedTuple):
    """Parameters of the tensors of a model, in the order of its definition."""

    layer: tuple[int, ...]
    layers: int
    before: tuple[int, ...]
    behind: tuple[int, ...]

    def sizes(self) -> list[int]:
        """All of them."""
        return [*self.before, *self.layer * self.layers, *self.behind]


def _ends(model: ModelSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    ends = end_tensors(model)
    return ends["token_embedding"] + ends["position_embedding"], ends["final_norm"] + ends["head"]


def tensor_sizes(model: ModelSpec) -> list[int]:
    """Parameters of each tensor of a model, in the order of its definition."""
    return _Tensors(block_of(model).tensors, model.num_layers, *_ends(model)).sizes()


@lru_cache(maxsize=256)
def _pieces(tensors: _Tensors, least: int, search: int, step: int) -> Pieces:
    sizes = tensors.sizes()
    whole = sum(sizes)
    if whole < least:
        return Pieces(whole, whole, 1.0, False)
    size = _least_waste(sizes, least, search, step)
    held, room, largest = 0, 0, 0
    for tensor in sizes:
        if tensor > room:
            room = max(size, tensor)
            held, largest = held + room, max(largest, room)
        room -= tensor
    return Pieces(size, largest, held / whole, True)


def _least_waste(sizes: list[int], least: int, search: int, step: int) -> int:
    """The piece size with the fewest unused parameters, the smallest of several."""
    limit = float(np.mean(sizes) + OUTLIER_DEVIATIONS * np.std(sizes))
    usual = [tensor for tensor in sizes if tensor <= limit]
    start = math.ceil(max(least, *usual) / step) * step
    tried = np.arange(start, start + search + 1, step)
    waste, left = np.zeros_like(tried), np.zeros_like(tried)
    for tensor in usual:
        opens = tensor > left
        waste += np.where(opens, left, 0)
        left = np.where(opens, tried, left) - tensor
    return int(tried[(waste + left).argmin()])


def pinned_ratio(sharded: ShardedSpec, piece_bytes: float) -> float:
    """Host memory that a pinned piece takes over its own size: blocks may be powers of two."""
    if not sharded.pinned_blocks or piece_bytes <= 1:
        return 1.0
    return float(2.0 ** math.ceil(math.log2(piece_bytes)) / piece_bytes)
