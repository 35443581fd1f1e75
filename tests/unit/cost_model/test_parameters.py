"""Parameter formulas on a model small enough to count by hand, and against published sizes."""

import pytest

from planner.cost_model.parameters import (
    LayerParameters,
    active_parameters,
    layer_parameters,
    model_parameters,
    stage_parameters,
    updated_parameters,
    weight_shards,
)
from planner.cost_model.terms import total
from planner.specs import ModelSpec
from planner.specs.files import load_spec
from tests.helpers import problem, stages, tiny_model


def test_model_parameters_by_hand() -> None:
    attention = 16 * 48 + 48 + 16 * 16 + 16
    feed_forward = 16 * 64 + 64 + 64 * 16 + 16
    assert attention + feed_forward + 4 * 16 == 3280
    assert model_parameters(tiny_model()) == {
        "layers": 4 * 3280,
        "token_embedding": 2048,  # 128 * 16
        "position_embedding": 128,  # 8 * 16
        "final_norm": 32,  # 2 * 16
        "head": 0,
    }


def test_model_parameters_of_an_untied_head() -> None:
    assert model_parameters(tiny_model(tied_embeddings=False))["head"] == 2048


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt2-small", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3-405b", 405_853_388_800),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("mistral-7b", 7_241_732_096),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_620_634_112),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("deepseek-v3", 671_026_404_352),
    ],
)
def test_model_parameters_of_released_models(name: str, published: int) -> None:
    assert sum(model_parameters(load_spec(name, ModelSpec)).values()) == published


@pytest.mark.parametrize(
    ("name", "billions"),
    [("mixtral-8x7b", 12.9), ("mixtral-8x22b", 39), ("qwen3-30b-a3b", 3.3), ("deepseek-v3", 37), ("llama3-8b", 8.03)],
)
def test_active_parameters_of_released_models(name: str, billions: float) -> None:
    # As their authors round them: arXiv 2401.04088, 2505.09388 and 2412.19437, Mistral AI of the 8x22B.
    assert active_parameters(load_spec(name, ModelSpec)) / 1e9 == pytest.approx(billions, rel=0.02)


def test_layer_parameters_by_hand() -> None:
    # Matrices 4 * 256 + 2 * 16 * 64, biases of divided products 3 * 16 + 64, the others 2 * 16 + 4 * 16.
    assert layer_parameters(tiny_model()) == LayerParameters(1024 + 2048, 48 + 64, 32 + 64)


def test_stage_parameters_of_one_device_are_the_model() -> None:
    terms = stage_parameters(problem(), stages())
    assert {name: column.tolist() for name, column in terms.items()} == {
        "layers": [13120.0],
        "token_embedding": [2048.0],
        "position_embedding": [128.0],
        "final_norm": [32.0],
        "head": [0.0],
    }


def test_stage_parameters_under_tensor_parallelism() -> None:
    terms = stage_parameters(problem(), stages(tensor_parallel=2))
    assert terms["layers"].tolist() == [4 * (3184 / 2 + 96)]
    assert terms["token_embedding"].tolist() == [64 * 16]
    assert terms["position_embedding"].tolist() == [128]


def test_stage_parameters_of_a_pipeline_hold_the_tied_embedding_twice() -> None:
    terms = stage_parameters(problem(), stages(pipeline_parallel=2, layers_per_stage=(1, 3)))
    assert terms["layers"].tolist() == [3280, 9840]
    assert terms["token_embedding"].tolist() == [2048, 0]
    assert terms["head"].tolist() == [0, 2048]
    assert terms["final_norm"].tolist() == [0, 32]
    assert total(terms).sum() == 15328 + 2048


def test_stage_parameters_of_an_untied_model_hold_a_head() -> None:
    terms = stage_parameters(problem(model={"tied_embeddings": False}), stages())
    assert terms["head"].tolist() == [2048]


def test_stage_parameters_pad_the_vocabulary() -> None:
    # 100 rows to a multiple of 16 * 2 are 128, half of them on each rank.
    terms = stage_parameters(problem(model={"vocab_size": 100}), stages(tensor_parallel=2))
    assert terms["token_embedding"].tolist() == [64 * 16]


def test_updated_parameters_by_hand() -> None:
    assert updated_parameters(problem(), stages(data_parallel=2)).tolist() == [15328]
    assert updated_parameters(problem(), stages(data_parallel=2, zero_stage=1)).tolist() == [7664]
    assert updated_parameters(problem(), stages(data_parallel=4, zero_stage=2)).tolist() == [3832]


@pytest.mark.parametrize(
    ("divided", "cells", "edge"),
    [
        ({"tensor_mode": "2d", "tensor_parallel": 4}, 4, 2),
        ({"tensor_mode": "2.5d", "tensor_parallel": 8, "tensor_depth": 2}, 4, 2),
        ({"tensor_mode": "3d", "tensor_parallel": 8}, 8, 2),
    ],
)
def test_stage_parameters_in_a_grid(divided: dict[str, object], cells: int, edge: int) -> None:
    terms = stage_parameters(problem(), stages(micro_batch=4, **divided))
    assert terms["layers"].tolist() == [4 * (3072 / cells + (112 + 96) / edge)]
    assert terms["token_embedding"].tolist() == [2048 / cells]
    assert terms["position_embedding"].tolist() == [128 / edge]
    assert terms["final_norm"].tolist() == [32 / edge]


def test_updated_parameters_under_zero_3_include_the_padding_of_pieces() -> None:
    assert updated_parameters(problem(), stages(data_parallel=2, zero_stage=3)).tolist() == [7664]
    padded = problem(stack={"sharded": {"unit_parameters": 4096}})
    # Five pieces of 4096 for 15328 parameters: see the test of pieces.
    assert updated_parameters(padded, stages(data_parallel=2, zero_stage=3)).tolist() == pytest.approx([5 * 2048])


def test_weight_shards_are_the_ranks_of_data_parallelism_under_zero_3() -> None:
    assert weight_shards(problem(), stages(data_parallel=4, zero_stage=2)).tolist() == [1]
    assert weight_shards(problem(), stages(data_parallel=4, zero_stage=3)).tolist() == [4]


def test_weight_shards_of_a_model_below_one_piece_are_one() -> None:
    small = problem(stack={"sharded": {"unit_parameters": 10**6}})
    assert weight_shards(small, stages(data_parallel=4, zero_stage=3)).tolist() == [1]
