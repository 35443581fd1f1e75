"""A host that is slower, or faster, than the one that a stack was measured on."""

import pytest

from planner.cost_model.compute import layer_host_seconds
from planner.cost_model.host_speed import host_slowness
from planner.cost_model.update import optimizer_seconds
from planner.layouts.problem import Problem
from planner.specs import HardwareSpec, StackSpec
from planner.specs.files import load_spec
from tests.helpers import problem, stages


def on_host(block_s: float | None, **traffic: float) -> Problem:
    """A machine with that time for a block, and a stack that was measured where one takes 2 s."""
    return problem(
        num_devices=4, hardware={"host": {"gpt2_block_s": block_s}}, stack={"traffic": {"gpt2_block_s": 2.0, **traffic}}
    )


def test_host_slowness_is_the_ratio_of_the_times_of_a_block() -> None:
    assert host_slowness(on_host(3.0)) == 1.5
    assert host_slowness(on_host(None)) == 1.0
    assert host_slowness(problem(hardware={"host": {"gpt2_block_s": 3.0}})) == 1.0


def test_host_slowness_scales_what_the_host_takes_for_layers_and_tensors() -> None:
    times = {"layer_host_s": 0.5, "tensor_parallel_host_s": 0.25, "zero_layer_host_s": 1.0}
    shared, divided = stages(data_parallel=2, zero_stage=1, num_microbatches=1), stages(tensor_parallel=2)
    for block_s, slowness in ((3.0, 1.5), (1.0, 0.5)):
        asked = on_host(block_s, **times)
        assert layer_host_seconds(asked, divided).tolist() == pytest.approx([0.75 * slowness])
        assert layer_host_seconds(asked, shared).tolist() == pytest.approx([1.5 * slowness])
        tensors = on_host(block_s, zero_tensor_host_s=0.5)
        more = optimizer_seconds(tensors, shared) - optimizer_seconds(on_host(block_s), shared)
        assert more.tolist() == pytest.approx([52 * 0.5 * slowness])


def test_host_slowness_leaves_launches_and_waits_for_other_ranks() -> None:
    divided = stages(tensor_parallel=2)
    waits = [layer_host_seconds(on_host(one, collective_rank_host_s=0.1), divided)[0] for one in (4.0, 2.0)]
    assert waits[0] == waits[1] > 0


def test_stacks_of_colossalai_were_measured_on_hosts_of_built_in_cards() -> None:
    for stack, card in (("colossalai-hf", "h100-80g"), ("colossalai", "h200-141g")):
        measured = load_spec(stack, StackSpec).traffic.gpt2_block_s
        assert measured == load_spec(card, HardwareSpec).host.gpt2_block_s
