"""Experts as a part of a block, by hand: 4 of 8 units in a hidden size of 16, of which a token passes 2."""

from planner.cost_model.parts.experts import experts
from planner.cost_model.parts.part import Made
from planner.specs import PartsSpec
from tests.helpers import changed, tiny_mixtral

SHARED = tiny_mixtral(experts={"shared": 2})


def test_experts_are_a_router_and_products_of_each() -> None:
    part = experts(Made(tiny_mixtral(), PartsSpec()))
    assert [(product.name, product.inner, product.outer, product.divided) for product in part.products] == [
        ("router", 16, 4, "neither")
    ]
    assert part.tensors == (16 * 4, *(16 * 2 * 8, 8 * 16) * 4)
    assert part.routed is not None
    assert (part.routed.parameters, part.routed.kept) == (384, 4 * 8)


def test_experts_that_are_shared_are_one_feed_forward_part_as_wide_as_all_of_them() -> None:
    part, alone = experts(Made(SHARED, PartsSpec())), experts(Made(tiny_mixtral(), PartsSpec()))
    assert [product.name for product in part.products] == ["router", "shared_in", "shared_out"]
    assert sum(part.tensors) - sum(alone.tensors) == 16 * 2 * 16 + 16 * 16
    assert part.kept.split == 4 * 16
    assert part.routed == alone.routed


def test_experts_are_products_of_each_as_the_library_makes_them() -> None:
    apart = experts(Made(tiny_mixtral(), changed(PartsSpec(), fused_gate=False)))
    assert apart.routed is not None
    assert [product.name for product in apart.routed.products] == ["expert_gate", "expert_in", "expert_out"]
