"""Degrees of rings that are worth a search."""

from planner.layouts.sequences import ring_degrees
from tests.helpers import problem


def test_pieces_of_a_ring_fill_tiles_of_attention() -> None:
    ring = {"ring_families": ("gpt2",)}
    assert ring_degrees(problem(seq_len=2048, stack=ring)) == (1, 2, 4, 8)
    assert ring_degrees(problem(seq_len=64, stack=ring)) == ring_degrees(problem(seq_len=2048)) == ()
