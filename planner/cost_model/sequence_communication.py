"""Time of what the ranks that divide sequences send each other: heads by all-to-all, or keys and values in a ring."""

import numpy as np

from planner.cost_model.attention_time import attention_seconds
from planner.cost_model.products import Passes, traffic_seconds
from planner.cost_model.rings import ring_links, ring_seconds
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.sequences import passes_keys, sequence_stride
from planner.layouts.stages import Floats, StageColumns, once_per_places
from planner.specs import ELEMENT_BYTES

PASSES_OF_A_SUM = 3.0
"""A part is read, and the sum read and written, in one fused kernel."""


@formula("definition")
def sequence_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """What the ranks that divide a sequence wait for each other in the attention of one layer. Units: s."""
    if passes_keys(problem):
        return ring_attention_seconds(problem, stages)
    exchange = exchange_seconds(problem, stages)
    return Passes(exchange, exchange)


@formula("jacobs2023", "colossalai0.5.0")
def exchange_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """All-to-all of one layer's forward: queries and output, keys and values, from tokens to heads and back. Units: s.

    Each rank sends all but its own share of its part of a tensor, as in a ring's single round.
    """
    columns, model = stages.layouts, problem.model
    size = columns.sequence_parallel_degree
    if (size == 1).all():
        return np.zeros(len(stages))
    bandwidth, latency = ring_links(problem, np.ones_like(size), size)
    width = 2.0 * (model.query_size + model.kv_size) * shares(columns).split_hidden
    moved = rank_tokens(problem, stages) * width * ELEMENT_BYTES[problem.precision]
    collectives = 4.0
    meeting = np.where(size > 1, collectives * float(problem.stack.traffic.slice_collective_s), 0.0)
    return ring_seconds(moved, size, 1.0, bandwidth, latency * collectives) + meeting


@formula("liu2023", "transformer-engine")
@once_per_places
def ring_attention_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """What the ring of ``c`` ranks adds to the attention of one layer and micro batch. Units: s.

    While a rank works on the keys and values that one of them had, the next one's are sent: ``c - 1`` times those of a
    rank's tokens in forward, and in backward their gradients as well. Each round has one of the ``c`` parts of the
    rank's attention to hide behind, of equal work, as every rank has a piece of the front and one of the back. The
    rank with the last piece has ``c`` whole parts, whose outputs are scaled and added one by one, and in backward the
    gradients of queries, keys and values: :data:`PASSES_OF_A_SUM` over memory each.
    """
    columns, model, element = stages.layouts, problem.model, ELEMENT_BYTES[problem.precision]
    size = columns.sequence_parallel_degree
    if (size == 1).all():
        return Passes(np.zeros(len(stages)), np.zeros(len(stages)))
    bandwidth, latency = ring_links(problem, sequence_stride(problem, columns), size)
    queries, keys = (
        rank_tokens(problem, stages) * width * shares(columns).split_hidden * float(element)
        for width in (model.value_size, model.kv_size + model.value_size * model.kv_heads / model.num_heads)
    )
    attention, rounds = attention_seconds(problem, stages), size - 1.0
    forward = rounds * np.maximum(keys / bandwidth + latency - attention.forward / size, 0.0)
    backward = rounds * np.maximum(2.0 * keys / bandwidth + latency - attention.backward / size, 0.0)
    sums = np.where(size > 1, PASSES_OF_A_SUM * size, 0.0)
    return Passes(
        forward + traffic_seconds(problem, sums * queries), backward + traffic_seconds(problem, sums * (queries + keys))
    )
