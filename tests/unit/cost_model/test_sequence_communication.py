"""What the ranks that divide sequences send each other, by hand."""

from typing import Any

import numpy as np
import pytest

from planner.cost_model.activations import exchanged_bytes
from planner.cost_model.attention_time import attention_seconds
from planner.cost_model.communication import layer_collectives
from planner.cost_model.products import traffic_seconds
from planner.cost_model.sequence_communication import exchange_seconds, ring_attention_seconds, sequence_seconds
from planner.layouts.problem import Problem
from planner.layouts.sequences import sequence_stride, tensor_stride
from tests.helpers import changed, problem, stages, tiny_llama

PAIR = {"sequence_parallel_degree": 2}
KEYS_BYTES = 4 * (8 + 8) * 2
"""Keys and values of 8 for each of a rank's 4 tokens in two bytes."""


def in_a_ring(bytes_per_s: float) -> Problem:
    link = {"latency_s": 0.0, "bandwidth_bytes_per_s": bytes_per_s, "efficiency": 1.0}
    stack: dict[str, Any] = {"ring_families": ("llama",)}
    return changed(problem(hardware={"node_link": link}, stack=stack), model=tiny_llama())


def test_exchange_seconds_of_queries_output_keys_and_values() -> None:
    link = {"latency_s": 0.0, "bandwidth_bytes_per_s": 2e9, "efficiency": 0.5}
    question = changed(problem(hardware={"node_link": link}), model=tiny_llama())
    row = stages(sequence_parallel_degree=2)
    # Queries and output of 16, keys and values of 8 for each of 4 tokens in two bytes; half of each leaves the rank.
    seconds = 0.5 * 4 * 2 * (2 * 16 + 2 * 8) / 1e9
    assert exchange_seconds(question, row).tolist() == pytest.approx([seconds])
    assert layer_collectives(question, row).once.tolist() == pytest.approx([2 * seconds])
    assert exchange_seconds(question, stages()).tolist() == [0.0]


def test_ring_attention_seconds_of_keys_and_values_beyond_the_attention_that_hides_them() -> None:
    slow, row = in_a_ring(1e6), stages(**PAIR)
    found, attention = ring_attention_seconds(slow, row), attention_seconds(slow, row)
    # Two whole parts of 4 tokens: the outputs of 16 are added, and the gradients of queries, keys and values.
    sums = [traffic_seconds(slow, np.array([3.0 * 2 * moved])) for moved in (4 * 16 * 2, 4 * 16 * 2 + KEYS_BYTES)]
    assert found.forward == pytest.approx(KEYS_BYTES / 1e6 - attention.forward / 2 + sums[0])
    assert found.backward == pytest.approx(2 * KEYS_BYTES / 1e6 - attention.backward / 2 + sums[1])
    assert ring_attention_seconds(slow, stages()).forward.tolist() == [0.0]


def test_ring_attention_seconds_are_hidden_on_fast_links() -> None:
    fast, row = in_a_ring(1e15), stages(**PAIR)
    sums = traffic_seconds(fast, np.array([3.0 * 2 * 4 * 16 * 2]))
    assert ring_attention_seconds(fast, row).forward == pytest.approx(sums)
    assert layer_collectives(fast, row).recomputed == pytest.approx(sums)


def test_sequence_seconds_are_those_of_the_stack() -> None:
    ring, exchange = in_a_ring(1e6), changed(in_a_ring(1e6), stack={"ring_families": ()})
    row = stages(**PAIR)
    assert sequence_seconds(ring, row) == ring_attention_seconds(ring, row)
    assert sequence_seconds(exchange, row).backward == exchange_seconds(exchange, row)
    assert exchanged_bytes(ring, row).tolist() == [0.0]
    assert exchanged_bytes(exchange, row)[0] > 0


def test_the_ranks_of_a_ring_are_outside_of_the_tensor_parallel_group() -> None:
    columns = stages(**PAIR, tensor_parallel=4).layouts
    ring, exchange = in_a_ring(1e6), problem()
    assert [int(stride(ring, columns)[0]) for stride in (tensor_stride, sequence_stride)] == [1, 4]
    assert [int(stride(exchange, columns)[0]) for stride in (tensor_stride, sequence_stride)] == [2, 1]
