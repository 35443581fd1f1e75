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

LLAMA3: dict[str, Any] = {
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
QWEN: dict[str, Any] = {
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
MIXTRAL = {
    "model_type": "mixtral",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
MIXTRAL_22B = MIXTRAL | {
    "hidden_size": 6144,
    "intermediate_size": 16384,
    "max_position_embeddings": 65536,
    "num_attention_heads": 48,
    "num_hidden_layers": 56,
    "router_aux_loss_coef": 0.001,
    "router_jitter_noise": 0.0,
}
QWEN3_MOE = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "max_window_layers": 48,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "first_k_dense_replace": 3,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {"quant_method": "fp8"},
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "v_head_dim": 128,
    "vocab_size": 129280,
}
BUILT_IN = [
    *(("llama3-8b", LLAMA3), ("mistral-7b", MISTRAL), ("qwen2.5-0.5b", QWEN), ("gpt2-small", GPT2)),
    *(("mixtral-8x7b", MIXTRAL), ("mixtral-8x22b", MIXTRAL_22B), ("qwen3-30b-a3b", QWEN3_MOE)),
]
PARTS = [
    *("num_layers", "hidden_size", "num_heads", "ffn_hidden_size", "vocab_size", "max_seq_len", "tied_embeddings"),
    *("dropout", "attention", "positions", "norm", "family", "kv_heads", "head_size", "experts"),
]


def read(folder: Path, fields: dict[str, Any]) -> ModelSpec:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields))
    return load_spec(str(folder), ModelSpec)


@pytest.mark.parametrize(("name", "fields"), BUILT_IN)
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
        ({"model_type": "gpt_neox"}, ["the model is of type 'gpt_neox'"]),
        ({"model_type": ["llama"]}, ["the model is of type ['llama']"]),
        ({"num_experts": 8, "quantization_config": {}}, ["`num_experts` is 8", "`quantization_config` is {}"]),
        ({"hidden_act": "relu2"}, ["`hidden_act` is 'relu2', of which"]),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, ["'longrope', and linear, dynamic, yarn, llama3"]),
        ({"rope_scaling": {"rope_type": "yarn", "mscale": 1.0}}, ["unknown keys: mscale"]),
        ({"num_attention_heads": "many"}, ["`num_attention_heads` is 'many': Expected `int`, got `str`"]),
        ({"num_hidden_layers": -2}, ["`num_hidden_layers` is -2: Expected `int` >= 1"]),
        ({"max_position_embeddings": "8k"}, ["`max_position_embeddings` is '8k': Expected `int`, got `str`"]),
        ({"num_key_value_heads": 0}, ["`num_key_value_heads` is 0: Expected `int` >= 1"]),
        ({"tie_word_embeddings": "no"}, ["`tie_word_embeddings` is 'no': Expected `bool`, got `str`"]),
        ({"hidden_size": None}, ["`hidden_size` is missing"]),
        ({"rope_theta": "x"}, ["`rope_theta` is 'x': Expected `float`, got `str`"]),
        ({"rope_scaling": "linear"}, ["`rope_scaling` is 'linear', and has to be a table"]),
        ({"layer_types": ["sliding_attention"]}, ["`layer_types` is ['sliding_attention'], which no part"]),
        ({"num_key_value_heads": 5}, ["`num_attention_heads` has to divide by `num_key_value_heads`"]),
    ],
)
def test_what_no_part_stands_for_is_refused_by_name(changes: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(PlanError) as refused:
        read(tmp_path / "m", LLAMA3 | changes)
    messages = [one.message for one in refused.value.diagnostics]
    assert len(messages) == len(named)
    assert all(one.hint and one.location.endswith("config.json") for one in refused.value.diagnostics)
    assert all(part in message for part, message in zip(named, messages, strict=True))


def test_deepseek_v3_is_the_built_in_one_but_for_its_loss(tmp_path: Path) -> None:
    found, known = read(tmp_path / "m", DEEPSEEK_V3), load_spec("deepseek-v3", ModelSpec)
    assert found.experts is not None
    assert known.experts is not None
    # The loss is in the report on the model and not in its config.
    assert (found.experts.balance_loss, known.experts.balance_loss) == (0.0, 1e-4)
    assert found.experts == msgspec.structs.replace(known.experts, balance_loss=0.0)
    assert all(getattr(found, part) == getattr(known, part) for part in PARTS if part != "experts")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (QWEN3_MOE | {"mlp_only_layers": [0, 1]}, "`mlp_only_layers` is"),
        (QWEN3_MOE | {"decoder_sparse_step": 2}, "`decoder_sparse_step` is 2, of which 1 is modelled"),
        (DEEPSEEK_V3 | {"topk_method": "greedy"}, "`topk_method` is 'greedy', of which 'noaux_tc' is modelled"),
        (MIXTRAL | {"num_experts_per_tok": 9}, "`experts.top_k` 9 is more than `experts.count` 8"),
        (DEEPSEEK_V3 | {"topk_group": 9}, "leave no 8 to pick"),
        (DEEPSEEK_V3 | {"first_k_dense_replace": 61}, "leave none of 61 layers to experts"),
        (DEEPSEEK_V3 | {"num_key_value_heads": 8}, "latent attention has keys of its own"),
    ],
)
def test_experts_that_no_part_stands_for_are_refused(fields: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=named):
        read(tmp_path / "m", fields)


def test_a_loss_that_balances_acts_where_scores_are_returned(tmp_path: Path) -> None:
    experts = read(tmp_path / "m", MIXTRAL | {"output_router_logits": True}).experts
    assert experts is not None
    assert experts.balance_loss == 0.02


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


@pytest.mark.parametrize(
    ("folder", "name"), [("My Model (final)", "My-Model--final-"), ("模型", "model"), ("é7b", "7b")]
)
def test_a_folder_may_have_any_name(folder: str, name: str, tmp_path: Path) -> None:
    assert read(tmp_path / folder, LLAMA3).name == name


def test_keys_of_transformers_5_are_those_of_4(tmp_path: Path) -> None:
    rotary = {"rope_theta": LLAMA3["rope_theta"], **LLAMA3["rope_scaling"]}
    newer = {key: value for key, value in LLAMA3.items() if key not in {"rope_theta", "rope_scaling", "torch_dtype"}}
    newer |= {"rope_parameters": rotary, "dtype": "bfloat16"}
    assert read(tmp_path / "m", newer) == read(tmp_path / "m", LLAMA3)
    layers = {"layer_types": ["full_attention"] * QWEN["num_hidden_layers"]}
    assert read(tmp_path / "m", QWEN | layers) == read(tmp_path / "m", QWEN)
