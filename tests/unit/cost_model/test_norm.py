"""Norms, by hand on the tiny models."""

from planner.cost_model.parts.norm import norm
from planner.cost_model.parts.part import Elements, Made
from planner.specs import PartsSpec
from tests.helpers import tiny_llama, tiny_model


def test_norm_has_a_bias_if_it_is_layernorm() -> None:
    assert norm(Made(tiny_model(), PartsSpec())).tensors == (16, 16)
    assert norm(Made(tiny_llama(), PartsSpec())).tensors == (16,)


def test_norm_keeps_input_and_output_and_what_the_library_adds() -> None:
    library = PartsSpec(norm_kept=2.0, norm_kept_full=1.0)
    assert norm(Made(tiny_llama(), library)).kept == Elements(whole=4 * 16)
    assert norm(Made(tiny_llama(), library, full=True)).kept == Elements(whole=3 * 16)
