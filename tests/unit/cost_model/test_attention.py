"""Attention, by hand on the tiny models."""

from planner.cost_model.parts.attention import attention
from planner.cost_model.parts.part import Elements, Made
from planner.specs import PartsSpec
from tests.helpers import changed, tiny_llama, tiny_model


def test_attention_has_the_products_of_its_heads() -> None:
    assert attention(Made(tiny_llama(), PartsSpec())).tensors == (
        16 * 32,
        16 * 16,
    )  # 16 of queries, 8 each of the others
    assert attention(Made(tiny_model(), PartsSpec())).tensors == (16 * 48, 48, 16 * 16, 16)
    apart = attention(Made(tiny_llama(), PartsSpec(fused_qkv=False)))
    assert [(product.name, product.outer) for product in apart.products] == [
        ("queries", 16),
        ("keys", 8),
        ("values", 8),
        ("attention_output", 16),
    ]


def test_attention_has_biases_of_its_inputs_and_norms_of_its_heads() -> None:
    biased = changed(tiny_llama(), attention={"qkv_bias": True, "qk_norm": True})
    assert attention(Made(biased, PartsSpec())).tensors == (4, 4, 16 * 32, 32, 16 * 16)


def test_attention_keeps_keys_once_or_for_each_query_head() -> None:
    grouped, repeated = (
        attention(Made(tiny_llama(), PartsSpec(repeated_keys=repeats))).kept for repeats in (False, True)
    )
    assert (grouped, repeated) == (Elements(split=16 + 8 + 8 + 16), Elements(split=4 * 16))
    wide = changed(tiny_llama(), attention={"head_size": 8})
    assert attention(Made(wide, PartsSpec())).kept == Elements(split=32 + 16 + 16 + 32)


def test_attention_moves_what_it_rotates() -> None:
    library = PartsSpec(rotary_elements=(3.0, 5.0))
    rotated = attention(Made(tiny_llama(), library))
    assert (rotated.forward.split, rotated.backward.split) == (3 * 24, 5 * 24)
    assert attention(Made(tiny_model(), library)).forward == Elements()


def test_attention_keeps_the_tensor_that_queries_are_part_of() -> None:
    library = PartsSpec(queries_in_stack=True)
    assert attention(Made(tiny_llama(), library)).kept == Elements(split=16 + 8 + 8 + 16)
    equal = changed(tiny_llama(), attention={"kv_heads": None})
    # Queries, keys and values as one tensor, copies of keys and values, the output.
    assert attention(Made(equal, library)).kept == Elements(split=3 * 16 + 2 * 16 + 16)
