"""Families of models of the Hugging Face Hub: which keys of a ``config.json`` each reads, and what parts they make."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from planner.specs.experts import BIASED_CONCENTRATION

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "silu": "silu",
    "relu": "relu",
}
SCALINGS = ("linear", "dynamic", "yarn", "llama3")


_ALL_PLAIN = {"vocab_size": "vocab_size", "tied_embeddings": "tie_word_embeddings"}
_GPT2_PLAIN = {
    **_ALL_PLAIN,
    "num_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_heads": "n_head",
    "max_seq_len": "n_positions",
    "norm.epsilon": "layer_norm_epsilon",
}
_LLAMA_PLAIN = {
    **_ALL_PLAIN,
    "num_layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "ffn_hidden_size": "intermediate_size",
    "max_seq_len": "max_position_embeddings",
    "dropout": "attention_dropout",
    "attention.kv_heads": "num_key_value_heads",
    "attention.head_size": "head_dim",
    "positions.base": "rope_theta",
    "norm.epsilon": "rms_norm_eps",
}


class Family(NamedTuple):
    """How the classes of one family read their config."""

    parts: Callable[[Mapping[str, Any]], dict[str, Any]]
    keys: dict[str, Any]
    """Keys that it reads, and the value of one that a config leaves out; ``...``: it has to be there."""
    fixed: dict[str, tuple[Any, ...]]
    """Keys of which only some values are modelled."""
    idle: tuple[str, ...] = ()
    """Keys of its own that change neither parts nor sizes."""
    plain: Mapping[str, str] = _LLAMA_PLAIN
    """Fields of a model spec, and the key whose value each has as it stands."""


def _plain(keys: Mapping[str, Any], names: Mapping[str, str], table: str = "") -> dict[str, Any]:
    """The fields of one table of a spec, ``""``: those outside of all, whose values are those of keys."""
    fields = {tuple(name.rpartition(".")[::2]): keys[key] for name, key in names.items()}
    return {field: value for (within, field), value in fields.items() if within == table and value is not None}


def _gpt2(keys: Mapping[str, Any]) -> dict[str, Any]:
    drops = {keys[name] for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(drops) > 1:
        raise ValueError(f"resid_pdrop, embd_pdrop and attn_pdrop differ ({', '.join(map(str, sorted(drops)))})")
    return {
        **_plain(keys, _GPT2_PLAIN),
        "ffn_hidden_size": 4 * keys["n_embd"] if keys["n_inner"] is None else keys["n_inner"],
        "dropout": float(drops.pop()),
        "mlp": {"activation": ACTIVATIONS[keys["activation_function"]]},
        "norm": _plain(keys, _GPT2_PLAIN, "norm"),
    }


def _llama(keys: Mapping[str, Any], *, biased: bool = False) -> dict[str, Any]:
    bias = biased or keys.get("attention_bias", False)
    attention = {
        "kv_heads": keys["num_attention_heads"],
        **_plain(keys, _LLAMA_PLAIN, "attention"),
        "qkv_bias": bias,
        "output_bias": bias and not biased,
        "sliding_window": keys.get("sliding_window") if keys.get("use_sliding_window", True) else None,
    }
    return {
        **_plain(keys, _LLAMA_PLAIN),
        "attention": {name: value for name, value in attention.items() if value is not None},
        "positions": _rotary(keys),
        "mlp": {"gated": True, "activation": ACTIVATIONS[keys["hidden_act"]], "bias": keys.get("mlp_bias", False)},
        "norm": {"kind": "rmsnorm", **_plain(keys, _LLAMA_PLAIN, "norm")},
    }


_SCALING_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_max_seq_len",
}


def _mixtral(keys: Mapping[str, Any]) -> dict[str, Any]:
    experts = {
        "count": keys["num_local_experts"],
        "top_k": keys["num_experts_per_tok"],
        "ffn_hidden_size": keys["intermediate_size"],
        "balance_loss": _balance_loss(keys),
    }
    return {**_llama(keys), "experts": experts}


def _qwen3_moe(keys: Mapping[str, Any]) -> dict[str, Any]:
    parts = _llama(keys)
    experts = {
        "count": keys["num_experts"],
        "top_k": keys["num_experts_per_tok"],
        "ffn_hidden_size": keys["moe_intermediate_size"],
        "normalised": keys["norm_topk_prob"],
        "balance_loss": _balance_loss(keys),
    }
    return {**parts, "attention": {**parts["attention"], "qk_norm": True}, "experts": experts}


def _balance_loss(keys: Mapping[str, Any]) -> float:
    """The coefficient, which acts where the model returns the scores of its routers."""
    return float(keys["router_aux_loss_coef"]) if keys["output_router_logits"] else 0.0


def _deepseek_v3(keys: Mapping[str, Any]) -> dict[str, Any]:
    head_size = keys["qk_nope_head_dim"] + keys["qk_rope_head_dim"]
    parts = _llama({**keys, "head_dim": head_size, "rope_scaling": _without_yarn_shape(keys["rope_scaling"])})
    latent = {
        "query_rank": keys["q_lora_rank"],
        "kv_rank": keys["kv_lora_rank"],
        "rotary_size": keys["qk_rope_head_dim"],
        "value_size": keys["v_head_dim"],
    }
    experts = {
        "count": keys["n_routed_experts"],
        "top_k": keys["num_experts_per_tok"],
        "ffn_hidden_size": keys["moe_intermediate_size"],
        "shared": keys["n_shared_experts"],
        "first_dense_layers": keys["first_k_dense_replace"],
        "router": "sigmoid",
        "normalised": keys["norm_topk_prob"],
        "weight_scale": keys["routed_scaling_factor"],
        "groups": keys["n_group"],
        "top_groups": keys["topk_group"],
        "selection_bias": True,
        "concentration": BIASED_CONCENTRATION,
    }
    return {**parts, "attention": {**parts["attention"], "latent": latent}, "experts": experts}


_YARN_SHAPE = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")
"""Keys of rotary scaling that change angles and scores, and neither a part nor a size."""


def _without_yarn_shape(scaling: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (scaling or {}).items() if key not in _YARN_SHAPE}


def _rotary(keys: Mapping[str, Any]) -> dict[str, Any]:
    positions: dict[str, Any] = {"kind": "rotary", **_plain(keys, _LLAMA_PLAIN, "positions")}
    if not isinstance(keys["rope_scaling"], dict | None):
        raise TypeError(f"`rope_scaling` is {keys['rope_scaling']!r}, and has to be a table")
    scaling = dict(keys["rope_scaling"] or {})
    kind = scaling.pop("rope_type", scaling.pop("type", "default"))
    scaling.pop("type", None)
    if kind == "default":
        return positions
    if kind not in SCALINGS:
        raise ValueError(f"rope_scaling has the type {kind!r}, and {', '.join(SCALINGS)} are known")
    unknown = sorted(scaling.keys() - _SCALING_KEYS.keys())
    if unknown:
        raise ValueError(f"rope_scaling has unknown keys: {', '.join(unknown)}")
    stated = {_SCALING_KEYS[key]: value for key, value in scaling.items()}
    return {**positions, "scaling": kind, **{k: float(v) if "factor" in k else v for k, v in stated.items()}}


_LLAMA_KEYS: dict[str, Any] = {
    **dict.fromkeys(
        ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"), ...
    ),
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
}
_ROUTER_KEYS = {"output_router_logits": False, "router_aux_loss_coef": 0.001}
FAMILIES = {
    "gpt2": Family(
        _gpt2,
        {
            **dict.fromkeys(("n_layer", "n_embd", "n_head", "vocab_size"), ...),
            "n_positions": 1024,
            "n_inner": None,
            "activation_function": "gelu_new",
            **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.1),
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": True,
        },
        {
            "activation_function": tuple(ACTIVATIONS),
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "add_cross_attention": (False,),
        },
        plain=_GPT2_PLAIN,
    ),
    "llama": Family(
        _llama,
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "attention_bias": False,
            "mlp_bias": False,
        },
        {"hidden_act": tuple(ACTIVATIONS)},
    ),
    "mistral": Family(
        _llama,
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        {"hidden_act": tuple(ACTIVATIONS)},
    ),
    "qwen2": Family(
        lambda keys: _llama(keys, biased=True),
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 32,
            "sliding_window": 4096,
            "use_sliding_window": False,
        },
        {"hidden_act": tuple(ACTIVATIONS), "use_mrope": (False,)},
    ),
    "mixtral": Family(
        _mixtral,
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 4096 * 32,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "num_key_value_heads": 8,
            "sliding_window": None,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            **_ROUTER_KEYS,
        },
        {"hidden_act": tuple(ACTIVATIONS), "router_jitter_noise": (0, 0.0)},
    ),
    "qwen3_moe": Family(
        _qwen3_moe,
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 4,
            "sliding_window": 4096,
            "use_sliding_window": False,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "moe_intermediate_size": 768,
            "norm_topk_prob": False,
            **_ROUTER_KEYS,
        },
        {
            "hidden_act": tuple(ACTIVATIONS),
            "attention_bias": (False,),
            "decoder_sparse_step": (1,),
            "mlp_only_layers": ([], None),
        },
    ),
    "deepseek_v3": Family(
        _deepseek_v3,
        {
            **_LLAMA_KEYS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), ...),
            **dict.fromkeys(("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"), ...),
            "n_shared_experts": 1,
            "first_k_dense_replace": 3,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
            "n_group": 8,
            "topk_group": 4,
        },
        {
            "hidden_act": tuple(ACTIVATIONS),
            "attention_bias": (False,),
            "moe_layer_freq": (1,),
            "scoring_func": ("sigmoid",),
            "topk_method": ("noaux_tc",),
        },
        # Of its fp8 files, its inference, a loss and a module that transformers leaves out.
        ("quantization_config", "ep_size", "num_nextn_predict_layers", "aux_loss_alpha", "seq_aux"),
    ),
}
"""By ``model_type``. The defaults are those of transformers 4.51.3, models/*/configuration_*.py."""
