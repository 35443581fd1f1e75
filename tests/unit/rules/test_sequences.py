"""Rules of ranks that pass the keys and values of a sequence around."""

from planner.layouts.layout import Layout
from planner.rules import violations
from tests.helpers import layout, problem_of

RING = {"ring_families": ("gpt2",), "slice_families": ("gpt2",)}


def broken(answer: Layout, **asked: object) -> dict[str, str]:
    question = problem_of(answer, seq_len=12, stack=RING | {"tensor_modes": ("none", "1d")}, **asked)
    return {one.rule: one.message for one in violations(question, answer) if one.rule.startswith("SP")}


def test_a_ring_needs_two_pieces_a_rank_and_no_whole_heads() -> None:
    assert broken(layout(sequence_parallel_degree=6)) == {}
    assert broken(layout(sequence_parallel_degree=4)) == {
        "SP004": "sequence length 12 does not divide by the sequence parallel degree 4"
    }


def test_a_ring_goes_with_slices_in_the_tensor_parallel_group() -> None:
    sliced = layout(sequence_parallel_degree=2, tensor_parallel=2, sequence_parallel=True)
    assert broken(sliced) == {}
    wider = layout(sequence_parallel_degree=2, tensor_parallel=4, sequence_parallel=True)
    assert broken(wider) == {
        "SP002": "sequence length 12 does not divide by tensor parallel degree 4 x 2 ranks of the sequence"
    }
