"""The feed-forward part, by hand on the tiny models."""

from planner.cost_model.parts.mlp import mlp
from planner.cost_model.parts.part import Elements, Made
from planner.specs import PartsSpec
from tests.helpers import tiny_llama, tiny_model


def test_mlp_has_a_product_more_where_it_is_gated() -> None:
    assert mlp(Made(tiny_model(), PartsSpec())).tensors == (16 * 64, 64, 64 * 16, 16)
    assert mlp(Made(tiny_llama(), PartsSpec())).tensors == (16 * 2 * 32, 32 * 16)
    apart = mlp(Made(tiny_llama(), PartsSpec(fused_gate=False)))
    assert [product.name for product in apart.products] == ["ffn_gate", "ffn_in", "ffn_out"]
    assert apart.tensors == (16 * 32, 16 * 32, 32 * 16)


def test_mlp_keeps_what_backward_of_its_activation_needs() -> None:
    assert mlp(Made(tiny_model(), PartsSpec())).kept == Elements(split=2 * 64)
    assert mlp(Made(tiny_llama(), PartsSpec(gated_kept=3.0))).kept == Elements(split=3 * 32)
