"""Parts of a block: weights, products, what is kept and which collectives are made, against counts of the library.

The measured growth and the counted collectives are of Colossal-AI 0.5.0 with transformers 4.51.3, Llama in fp32 with 4
heads and 32 hidden units, in whole hidden states of a block, ``B S H``.
"""

from typing import Any

import pytest

from planner.cost_model.activations import gathered_inputs, layer_activation_bytes
from planner.cost_model.communication import layer_collectives
from planner.cost_model.parts import block, block_of, counted_whole, kept_elements
from planner.layouts.problem import Problem
from planner.specs import HardwareSpec, ModelSpec, PartsSpec, StackSpec
from planner.specs.files import load_spec
from tests.helpers import changed, stages, tiny_llama, tiny_model


def asked(stack: str = "colossalai", model: ModelSpec | None = None, **overrides: Any) -> Problem:
    return Problem(
        model=model or tiny_llama(),
        hardware=load_spec("h100-80g", HardwareSpec),
        stack=load_spec(stack, StackSpec),
        num_devices=overrides.pop("num_devices", 8),
        devices_per_node=8,
        global_batch=8,
        seq_len=8,
        precision=overrides.pop("precision", "bf16"),
        **overrides,
    )


HIDDEN_STATES_KEPT = {
    "1 rank": ({}, 18.1),
    "TP2": ({"tensor_parallel": 2}, 12.0),
    "TP2 in slices": ({"tensor_parallel": 2, "sequence_parallel": True}, 14.0),
    "TP4": ({"tensor_parallel": 4}, 9.1),
    "TP4 in slices": ({"tensor_parallel": 4, "sequence_parallel": True}, 9.9),
    "all-to-all over 2": ({"sequence_parallel_degree": 2}, 9.8),
    "all-to-all over 4": ({"sequence_parallel_degree": 4}, 4.8),
}


def test_a_library_makes_one_product_or_several() -> None:
    names = [product.name for product in block(asked()).products]
    assert names == ["queries", "keys", "values", "attention_output", "ffn_gate", "ffn_in", "ffn_out"]
    fused = block_of(tiny_llama(), PartsSpec())
    assert [(product.name, product.outer) for product in fused.products] == [
        ("qkv", 32),
        ("attention_output", 16),
        ("ffn_in", 64),
        ("ffn_out", 16),
    ]
    assert fused.tensors == block_of(tiny_llama()).tensors
    assert sum(fused.tensors) == sum(block(asked()).tensors)


@pytest.mark.parametrize("layout", HIDDEN_STATES_KEPT)
def test_kept_hidden_states_are_the_measured_ones(layout: str) -> None:
    degrees, measured = HIDDEN_STATES_KEPT[layout]
    question = asked(precision="fp32")
    row = stages(pipeline_parallel=1, layers_per_stage=(4,), **degrees)
    kept = layer_activation_bytes(question, row) / (4 * 8 * 16)
    # A softmax statistic a token and head is a quarter of a hidden state here, and an eighth there.
    statistics = 0.125 / row.layouts.tensor_parallel / row.layouts.sequence_parallel_degree
    assert kept - statistics == pytest.approx(measured, rel=0.06)


def test_a_block_of_gpt2_is_counted_by_the_stack_and_by_its_parts_alike() -> None:
    assert counted_whole(tiny_model())
    assert not counted_whole(tiny_llama())
    for name in ("megatron", "colossalai"):
        stack = load_spec(name, StackSpec)
        kept = block_of(tiny_model(), changed(stack.parts, norm_kept=0.0, contiguous_attention=False)).total("kept")
        whole = kept_elements(asked(name, tiny_model()))
        assert (kept.whole / 16, kept.split / 16) == tuple(whole) == (4.0, 12.0)


@pytest.mark.parametrize(
    ("model", "slices", "forward", "backward"),
    [
        ("llama", False, 2 * 2, 5 * 2),
        ("llama", True, 5 + 2, 5 + 2),
        ("gpt2", False, 2 * 2, 2 * 2),
        ("gpt2", True, 2 + 2, 2 + 2),
    ],
)
def test_collectives_of_a_layer_are_the_counted_ones(model: str, slices: bool, forward: int, backward: int) -> None:
    question = asked(model=tiny_llama() if model == "llama" else tiny_model())
    question = changed(
        question,
        hardware={
            "node_link": {"latency_s": 0.0, "bandwidth_bytes_per_s": 2e9, "efficiency": 0.5, "pair_efficiency": 0.5}
        },
        stack={"overlap": {"tensor_parallel": 0.0}, "traffic": {"slice_collective_s": 0.0, "collective_s": 0.0}},
    )
    made = layer_collectives(question, stages(tensor_parallel=2, sequence_parallel=slices))
    ring_s = 0.5 * 8 * 16 * 2 / 1e9  # half of 8 tokens of 16 two-byte elements
    assert made.recomputed.tolist() == pytest.approx([forward * ring_s])
    assert (made.once - made.recomputed).tolist() == pytest.approx([backward * ring_s])
    assert gathered_inputs(question) == (5.0 if model == "llama" else 2.0)


@pytest.mark.parametrize("slices", [False, True])
def test_torchtitan_gathers_an_input_once_for_all_its_products(slices: bool) -> None:
    """Two gathers and two scatters each way; without slices backward all-reduces the gradient of each product."""
    question = changed(
        asked("torchtitan", num_devices=2),
        hardware={
            "node_link": {"latency_s": 0.0, "bandwidth_bytes_per_s": 2e9, "efficiency": 0.5, "pair_efficiency": 0.5}
        },
    )
    made = layer_collectives(question, stages(tensor_parallel=2, sequence_parallel=slices))
    ring_s = 0.5 * 8 * 16 * 2 / 1e9
    assert made.recomputed.tolist() == pytest.approx([4 * ring_s])
    assert (made.once - made.recomputed).tolist() == pytest.approx([(4 if slices else 10) * ring_s])
    assert gathered_inputs(question) == 2.0
