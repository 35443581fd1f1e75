"""A model by its parts: each says its weights, products, element-wise passes and what it keeps for backward."""

from planner.cost_model.parts.block import (
    Block,
    block,
    block_of,
    counted_whole,
    final_norm,
    kept_elements,
    moved_elements,
    remade_elements,
    without_experts,
    working_elements,
)
from planner.cost_model.parts.ends import end_tensors

__all__ = [
    "Block",
    "block",
    "block_of",
    "counted_whole",
    "end_tensors",
    "final_norm",
    "kept_elements",
    "moved_elements",
    "remade_elements",
    "without_experts",
    "working_elements",
]
