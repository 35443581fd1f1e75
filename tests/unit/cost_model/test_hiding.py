"""What communication over data parallelism leaves exposed, by hand on the tiny model."""

from typing import Any

import pytest

from planner.cost_model.communication import data_parallel_seconds, layer_collectives
from planner.cost_model.compute import microbatch_compute
from planner.cost_model.hiding import compiled_replica_seconds, hiding_seconds, replica_seconds
from planner.layouts.problem import Problem
from planner.specs.stack import CompiledSpec
from planner.specs.units import Seconds
from tests.helpers import problem, stages

LAYER_S = 2048 / 5e11 + (10240 + 7680) / 5e8
"""Forward of a layer; backward takes twice as long, and half of each can hide something."""
WAITS: dict[str, Any] = {"gathers_hide": False}
COMPILED = CompiledSpec(families=("gpt2",), start_s=Seconds(0.0), one_pass=("bf16",))


def asked(*, compiled: bool = True, bandwidth: float = 2e9) -> Problem:
    """Over links of half of ``bandwidth``, which is 1e9 bytes/s."""
    link = {"node_link": {"bandwidth_bytes_per_s": bandwidth}}
    stack = {"overlap": WAITS, "compiled": COMPILED}
    return problem(num_devices=2, hardware=link, stack=stack, compiled=compiled)


def test_replica_seconds_of_zero_wait_for_the_gather() -> None:
    rows = stages(data_parallel=2, zero_stage=1)
    slow = asked(compiled=False, bandwidth=2e7)
    # 15328 parameters of two bytes, half of them to the other rank in each of three steps; one of them gathers.
    step = 15328 / 1e7 + 1e-6
    hidden = 0.5 * 8 * LAYER_S
    assert replica_seconds(slow, rows).tolist() == pytest.approx([2 * step - hidden + step])
    assert data_parallel_seconds(slow, rows).tolist() == pytest.approx([3 * step])


def test_compiled_replica_seconds_hide_all_of_layers_and_nothing_of_ends() -> None:
    # 15328 parameters, 4 layers of 3280: the other 2208 are scattered last and gathered first.
    rows = stages(data_parallel=2, zero_stage=1)
    assert replica_seconds(asked(), rows).tolist() == pytest.approx([2 * (2208 / 1e9 + 1e-6)])
    assert data_parallel_seconds(asked(), rows).tolist() == pytest.approx([2 * (15328 / 1e9 + 1e-6)])


def test_compiled_replica_seconds_over_slow_links_by_hand() -> None:
    slow = asked(bandwidth=2e7)
    layers, ends = 13120 / 1e7, 2208 / 1e7 + 1e-6
    for zero_stage, microbatches, backwards in ((1, 2, 1), (2, 1, 1), (2, 2, 2)):
        rows = stages(data_parallel=2, zero_stage=zero_stage, num_microbatches=microbatches)
        scatter = backwards * (layers + ends - 0.5 * 8 * LAYER_S)
        gather = layers + ends - 0.5 * 4 * LAYER_S
        assert compiled_replica_seconds(slow, rows).tolist() == pytest.approx([scatter + gather])


def test_compiled_replica_seconds_of_pipelines_hide_by_layer() -> None:
    fields = {"data_parallel": 2, "pipeline_parallel": 2, "layers_per_stage": (1, 3)}
    # Embeddings of 2176 on the first stage, norm and head of 2080 on the last.
    reduced = [2 * (2176 / 1e9 + 1e-6), 2 * (2080 / 1e9 + 1e-6)]
    plain = stages(**fields)
    assert replica_seconds(asked(), plain).tolist() == pytest.approx(reduced)
    whole = replica_seconds(asked(compiled=False), plain)
    assert whole.tolist() == pytest.approx([2 * (5456 / 1e9 + 1e-6), 2 * (11920 / 1e9 + 1e-6)])
    # Of the two steps of a ring one scatters and one gathers.
    assert replica_seconds(asked(), stages(**fields, zero_stage=1)).tolist() == pytest.approx(reduced)
    slow = asked(bandwidth=2e7)
    left = [L * (2 * 3280 / 1e7 - 0.5 * 2 * LAYER_S) + 2 * (e / 1e7 + 1e-6) for L, e in ((1, 2176), (3, 2080))]
    assert replica_seconds(slow, plain).tolist() == pytest.approx(left)


def test_compiled_replica_seconds_hide_no_reduction_of_gradients_that_are_put_off() -> None:
    in_v = {"data_parallel": 2, "pipeline_parallel": 2, "schedule": "zbv", "num_model_chunks": 2}
    # Two layers of 3280 on each stage, the ends of 2208 on the first; in both steps of the ring.
    whole = [2 * ((2 * 3280 + ends) / 1e9 + 1e-6) for ends in (2208, 0)]
    assert replica_seconds(asked(), stages(**in_v)).tolist() == pytest.approx(whole)
    # Under ZeRO 1 one step scatters and the other gathers, behind forward.
    sharded = [(2 * 3280 + ends) / 1e9 + 1e-6 + ends / 1e9 + 1e-6 for ends in (2208, 0)]
    assert replica_seconds(asked(), stages(**in_v, zero_stage=1)).tolist() == pytest.approx(sharded)


def test_hiding_seconds_have_collectives_of_a_node_beside_reductions_between_nodes() -> None:
    stack = {"overlap": {"behind_collectives": True}}
    inside = stages(tensor_parallel=2, data_parallel=2)
    backward = microbatch_compute(problem(), inside)["layers_backward"]
    assert hiding_seconds(problem(), inside).tolist() == backward.tolist()
    for devices, hidden in ((4, 0.0), (2, 1.0), (1, 0.0)):  # On one node, on two, and each rank on its own.
        asked = problem(devices_per_node=devices, stack=stack)
        collectives = 4 * layer_collectives(asked, inside).once * 2 / 3
        assert hiding_seconds(asked, inside).tolist() == pytest.approx((backward + hidden * collectives).tolist())
