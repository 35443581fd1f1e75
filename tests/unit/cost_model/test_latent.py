"""Latent attention, by hand: 4 heads of 6 units, 2 of them rotated, with values of 3, made from 8 and 5 units."""

from planner.cost_model.parts.latent import latent_attention
from planner.cost_model.parts.part import Made
from planner.specs import AttentionSpec, LatentSpec, PartsSpec
from tests.helpers import changed, tiny_llama

LATENT = LatentSpec(query_rank=8, kv_rank=5, rotary_size=2, value_size=3)
MODEL = changed(
    tiny_llama(), attention=AttentionSpec(head_size=6, qkv_bias=False, output_bias=False, kv_heads=4, latent=LATENT)
)


def test_latent_attention_has_products_down_and_up() -> None:
    part = latent_attention(Made(MODEL, PartsSpec()))
    assert [(product.inner, product.outer, product.divided) for product in part.products] == [
        (16, 8, "neither"),
        (8, 4 * 6, "outer"),
        (16, 5 + 2, "neither"),
        (5, 4 * (4 + 3), "outer"),
        (4 * 3, 16, "inner"),
    ]
    assert part.vectors == (8, 5)


def test_latent_attention_keeps_narrow_states_whole_and_heads_divided() -> None:
    kept = latent_attention(Made(MODEL, PartsSpec())).kept
    assert kept.whole == 2 * (8 + 5) + 2
    assert kept.split == 2 * 24 + 2 * 12


def test_the_width_of_values_is_that_of_the_output_product() -> None:
    assert (MODEL.query_size, MODEL.value_size) == (24, 12)
    assert tiny_llama().value_size == tiny_llama().query_size
