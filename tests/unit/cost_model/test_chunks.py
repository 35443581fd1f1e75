"""Pieces of ZeRO stage 3, by hand on the tiny model: 2048, 128, then 768, 256 and 2 x 1024 in each layer."""

import pytest

from planner.cost_model.chunks import Pieces, pieces, pinned_ratio, tensor_sizes
from planner.cost_model.communication import sharded_seconds
from planner.specs import ShardedSpec
from tests.helpers import problem, stages, tiny_model


def test_tensor_sizes_are_those_of_the_model() -> None:
    sizes = tensor_sizes(tiny_model())
    assert sizes[:2] == [2048, 128]
    assert sizes[2:14] == [16, 16, 768, 48, 256, 16, 16, 16, 1024, 64, 1024, 16]
    assert sum(sizes) == 15328
    assert sum(tensor_sizes(tiny_model(tied_embeddings=False))) == 15328 + 2048


def test_pieces_are_layers_unless_the_stack_says_otherwise() -> None:
    # 3280 parameters of a layer; the embedding's 2048 are fewer than the matrices of a layer.
    assert pieces(problem()) == Pieces(layer=3280, largest=3072, padding=1.0, is_sharded=True)


def test_pieces_fill_in_order() -> None:
    # 4096 holds 2048 + 128 + 1136 (up to c_fc, 1024, which does not fit) and so on:
    # 3328 | 1104 + 1136 = 2240 + 1024 + 64 -> 3328 | ... five pieces for 15328 parameters.
    found = pieces(problem(stack={"sharded": {"unit_parameters": 4096}}))
    assert (found.layer, found.largest, found.is_sharded) == (4096, 4096, True)
    assert found.padding == pytest.approx(5 * 4096 / 15328)


def test_pieces_give_an_outlier_one_of_its_own() -> None:
    wide = problem(model={"vocab_size": 1024}, stack={"sharded": {"unit_parameters": 4096}})
    found = pieces(wide)
    assert (found.layer, found.largest) == (4096, 1024 * 16)


def test_pieces_take_the_size_of_the_least_waste() -> None:
    # 13408 parameters of tensors that are no outliers; two pieces of 7168 hold them and waste 928.
    one = {"num_layers": 4, "vocab_size": 8}
    fixed = pieces(problem(model=one, stack={"sharded": {"unit_parameters": 4096}}))
    searched = pieces(
        problem(model=one, stack={"sharded": {"unit_parameters": 4096, "unit_search_parameters": 16 * 1024}})
    )
    assert (fixed.layer, searched.layer) == (4096, 7168)
    assert searched.padding == pytest.approx(2 * 7168 / 13408)


def test_pieces_no_larger_than_a_layer_s_matrices() -> None:
    # 3072 in place of 10^6, in steps of the hidden size: 3072, 3088, ... 6144.
    capped = {"unit_parameters": 10**6, "unit_search_parameters": 10**6, "unit_at_most_layer": True}
    found = pieces(problem(stack={"sharded": capped}))
    assert found.is_sharded
    assert 3072 <= found.layer <= 6144
    assert found.layer % 16 == 0


def test_pieces_of_a_model_below_the_least_size_are_not_sharded() -> None:
    found = pieces(problem(stack={"sharded": {"unit_parameters": 10**6}}))
    assert found == Pieces(layer=15328, largest=15328, padding=1.0, is_sharded=False)


def test_pinned_blocks_are_powers_of_two() -> None:
    blocks = ShardedSpec(pinned_blocks=True)
    assert pinned_ratio(blocks, 1000.0) == 1.024
    assert pinned_ratio(blocks, 1024.0) == 1.0
    assert pinned_ratio(ShardedSpec(), 1000.0) == 1.0


def test_pieces_move_at_what_one_collective_reaches_out_of_a_node() -> None:
    def bandwidth(share: float, most: float | None) -> float:
        asked = problem(
            num_devices=8,
            stack={"sharded": {"link_share": share}},
            hardware={"network": {"ring_bytes_per_s": most, "latency_s": 0.0}, "node_link": {"latency_s": 0.0}},
        )
        seconds = float(sharded_seconds(asked, stages(data_parallel=8, zero_stage=3))[0])
        # Two gatherings and a scattering of 2 bytes a parameter, seven eighths of which come from other ranks.
        return 3 * 15328 * 2 * 7 / 8 / seconds

    assert bandwidth(1.0, None) == pytest.approx(4e8)
    assert bandwidth(0.5, None) == pytest.approx(2e8)
    assert bandwidth(1.0, 1.5e8) == pytest.approx(1.5e8)
    # The share is of all adapters, of which one collective reaches a part anyway.
    assert bandwidth(0.5, 1.5e8) == pytest.approx(1.5e8)
    assert bandwidth(0.25, 1.5e8) == pytest.approx(1e8)
