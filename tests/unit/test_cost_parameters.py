"""Parameter formulas on a model small enough to count by hand, and against published sizes."""

import pytest

from planner.cost_model.parameters import layer_parameters, model_parameters, stage_parameters, updated_parameters
from planner.cost_model.terms import total
from planner.spec import ModelSpec
from planner.spec_files import load_spec
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
    ],
)
def test_model_parameters_of_released_models(name: str, published: int) -> None:
    assert sum(model_parameters(load_spec(name, ModelSpec)).values()) == published


def test_layer_parameters_by_hand() -> None:
    # Sharded: 4 * 256 + 2 * 16 * 64 + 3 * 16 + 64. Replicated: 2 * 16 + 4 * 16.
    assert layer_parameters(tiny_model()) == (1024 + 2048 + 48 + 64, 32 + 64)


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
