"""Time of attention by hand: 5e11 FLOP/s and 5e8 B/s are what the tiny device reaches."""

import numpy as np
import pytest

from planner.cost_model.attention_time import attention_seconds, kernel_attention_seconds
from tests.helpers import problem, stages


def test_attention_seconds_at_an_efficiency_of_their_own() -> None:
    asked = problem(stack={"traffic": {"attention_efficiency": 0.25}})
    assert attention_seconds(asked, stages()).forward.tolist() == pytest.approx([2048 / 2.5e11])


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [
        ("flash", 2048 / 5e11),
        ("unskipped", 4096 / 5e11),
        # 8 * 8 * 4 scores of two bytes, three times over the memory.
        ("materialised", 4096 / 5e11 + 256 * 2 * 3 / 5e8),
        ("recomputed", 4096 / 5e11 + 256 * 2 * 3 / 5e8),
    ],
)
def test_attention_seconds_by_hand(kind: str, seconds: float) -> None:
    asked = problem(stack={"activations": {"attention": kind}, "traffic": {"score_elements": 3.0}})
    attention = attention_seconds(asked, stages())
    assert attention.forward.tolist() == pytest.approx([seconds])
    assert attention.backward.tolist() == pytest.approx([2 * seconds])


NATIVE = {"native_attention": (0.5, 0.25), "native_attention_head": 8}


def test_kernel_attention_seconds_by_hand() -> None:
    asked = problem(stack={"traffic": {"attention_efficiency": 0.2}}, hardware={"efficiency": NATIVE})
    flops = np.array([1000.0])
    passes = kernel_attention_seconds(asked, flops, causal=True)
    assert (passes.forward[0], passes.backward[0]) == pytest.approx((1000 / 2e11, 2500 / 2e11))
    slower = problem(stack={"traffic": {"attention_efficiency": 0.2}, "parts": {"head_share": 0.5}})
    assert kernel_attention_seconds(slower, flops, causal=True).forward[0] == pytest.approx(2 * 1000 / 2e11)
    long = problem(
        stack={"traffic": {"attention_efficiency": 0.2}, "parts": {"head_share": 0.5}}, model={"hidden_size": 512}
    )
    assert kernel_attention_seconds(long, flops, causal=True).forward[0] == pytest.approx(1000 / 2e11)
    native = problem(
        model={"dropout": 0.1},
        hardware={"efficiency": NATIVE},
        stack={"traffic": {"attention_efficiency": 0.2, "native_attention": True, "attention_dropout_flops": 32.0}},
    )
    # Heads of 4 fill half of a tile; 1000 FLOP are 1000 / 16 scores, each dropped for 32 FLOP.
    passes = kernel_attention_seconds(native, flops, causal=True)
    assert (passes.forward[0], passes.backward[0]) == pytest.approx(((2000 + 2000) / 5e11, (4000 + 2000) / 2.5e11))
    masked = kernel_attention_seconds(native, flops, causal=False)
    assert masked.forward[0] == pytest.approx(1000 / 2e11)
    older = problem(stack={"traffic": {"attention_efficiency": 0.2, "native_attention": True}})
    assert kernel_attention_seconds(older, flops, causal=True).backward[0] == pytest.approx(2500 / 2e11)


def test_native_attention_shares_of_short_sequences_and_small_heads_by_hand() -> None:
    slower = NATIVE | {"native_attention_tokens": (8.0, 24.0), "native_attention_small_head": (0.8, 0.5)}
    asked = problem(
        model={"dropout": 0.1},
        hardware={"efficiency": slower},
        stack={"traffic": {"native_attention": True, "attention_efficiency": 0.2, "attention_dropout_flops": 32.0}},
    )
    tokens = asked.seq_len
    forward = 0.5 * 0.8 * (2048 + 8) / 2048 * tokens / (tokens + 8)
    backward = 0.25 * 0.5 * (2048 + 24) / 2048 * tokens / (tokens + 24)
    passes = kernel_attention_seconds(asked, np.array([1000.0]), causal=True)
    # What dropping takes is the same for every shape.
    expected = (2000 / (forward * 1e12) + 2000 / 5e11, 4000 / (backward * 1e12) + 2000 / 2.5e11)
    assert (passes.forward[0], passes.backward[0]) == pytest.approx(expected)


def test_attention_seconds_under_zero_3_by_its_own_kernels() -> None:
    stack = {"activations": {"attention": "unskipped"}, "sharded": {"attention": "flash"}}
    rows = stages(data_parallel=2, zero_stage=3)
    assert attention_seconds(problem(stack=stack), rows).forward.tolist() == pytest.approx([2048 / 5e11])
    assert attention_seconds(problem(stack=stack), stages()).forward.tolist() == pytest.approx([4096 / 5e11])
