"""Configs of the Hugging Face Hub: those of released models give the built-in specs; what is unknown is named."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from planner.cost_model.parameters import model_parameters
from planner.diagnostics import PlanError
from planner.specs import ModelSpec
from planner.specs.files import load_spec

LLAMA3 = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0",
    "vocab_size": 128256,
}
MISTRAL = {
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN = {
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GPT2 = {
    "model_type": "gpt2",
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "layer_norm_epsilon": 1e-05,
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_type": "cls_index",
    "vocab_size": 50257,
}
PARTS = [
    *("num_layers", "hidden_size", "num_heads", "ffn_hidden_size", "vocab_size", "max_seq_len", "tied_embeddings"),
    *("dropout", "attention", "positions", "norm", "family", "kv_heads", "head_size"),
]


def read(folder: Path, fields: dict[str, Any]) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return load_spec(str(folder), ModelSpec)


@pytest.mark.parametrize(
    ("name", "fields"), [("llama3-8b", LLAMA3), ("mistral-7b", MISTRAL), ("qwen2.5-0.5b", QWEN), ("gpt2-small", GPT2)]
)
def test_a_config_of_a_released_model_is_the_built_in_one(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    found, known = read(tmp_path / "Some-Model", fields), load_spec(name, ModelSpec)
    assert {part: getattr(found, part) for part in PARTS} == {part: getattr(known, part) for part in PARTS} | (
        {} if known.attention.kv_heads else {"attention": found.attention}
    )
    assert (found.mlp.gated, found.mlp.bias) == (known.mlp.gated, known.mlp.bias)
    assert model_parameters(found) == model_parameters(known)
    assert found.name == "Some-Model"
    assert load_spec(str(tmp_path / "Some-Model" / "config.json"), ModelSpec) == found


@pytest.mark.parametrize(
    ("scaling", "kind", "factor"),
    [
        ({"type": "linear", "factor": 2}, "linear", 2.0),
        ({"rope_type": "dynamic", "factor": 4.0}, "dynamic", 4.0),
        ({"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 4096}, "yarn", 8.0),
        ({"rope_type": "default"}, "none", 1.0),
    ],
)
def test_rotations_are_stretched(scaling: dict[str, Any], kind: str, factor: float, tmp_path: Path) -> None:
    positions = read(tmp_path / "m", LLAMA3 | {"rope_scaling": scaling}).positions
    assert (positions.scaling, positions.factor) == (kind, factor)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mixtral"}, ["the model is of type 'mixtral'"]),
        ({"model_type": ["llama"]}, ["the model is of type ['llama']"]),
        ({"num_experts": 8, "quantization_config": {}}, ["`num_experts` is 8", "`quantization_config` is {}"]),
        ({"hidden_act": "relu2"}, ["`hidden_act` is 'relu2', of which"]),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, ["'longrope', and linear, dynamic, yarn, llama3"]),
        ({"rope_scaling": {"rope_type": "yarn", "mscale": 1.0}}, ["unknown keys: mscale"]),
        ({"num_attention_heads": "many"}, ["the config is not valid"]),
        ({"num_key_value_heads": 5}, ["`num_heads` has to divide by `attention.kv_heads`"]),
    ],
)
def test_what_no_part_stands_for_is_refused_by_name(changes: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        read(tmp_path / "m", LLAMA3 | changes)
    messages = [one.message for one in refused.value.diagnostics]
    assert len(messages) == len(named)
    assert all(part in message for part, message in zip(named, messages, strict=True))


def test_a_missing_key_and_dropouts_that_differ_are_named(tmp_path: Path) -> None:
    for fields, named in (
        ({k: v for k, v in LLAMA3.items() if k != "vocab_size"}, "`vocab_size` is missing"),
        (GPT2 | {"attn_pdrop": 0.0}, "resid_pdrop, embd_pdrop and attn_pdrop differ"),
    ):
        with pytest.raises(PlanError, match=named):
            read(tmp_path / "m", fields)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_bad_input(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"not JSON|no JSON object"):
        load_spec(str(path), ModelSpec)
    with pytest.raises(PlanError, match="cannot read the config"):
        load_spec(str(tmp_path / "none.json"), ModelSpec)


def test_a_bias_of_attention_is_one_of_its_output_too(tmp_path: Path) -> None:
    attention = read(tmp_path / "m", LLAMA3 | {"attention_bias": True}).attention
    assert msgspec.structs.astuple(attention)[2:4] == (True, True)
