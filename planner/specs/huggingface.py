"""Models of the Hugging Face Hub: their ``config.json`` as a model spec, every key of it read, idle or refused."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from planner.diagnostics import Diagnostic, PlanError, usage_error
from planner.specs.model import ModelSpec

CONFIG = "config.json"
MAX_CONFIG_BYTES = 1024**2
BATCH = 256
"""Sequences of a step where a config does not say: those of a few million tokens."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu-tanh",
    "gelu_pytorch_tanh": "gelu-tanh",
    "silu": "silu",
    "relu": "relu",
}
SCALINGS = ("linear", "dynamic", "yarn", "llama3")
PRECISIONS = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}

IDLE = frozenset(
    [
        *("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "auto_map"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id", "task_specific_params"),
        *("initializer_range", "use_cache", "pretraining_tp", "n_ctx", "max_window_layers", "output_past"),
        *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
        *("gradient_checkpointing", "_attn_implementation"),
    ]
)
"""Keys that change neither the parts of a model nor their sizes, or that are read beside another one."""


class Family(NamedTuple):
    """How the classes of one family read their config."""

    parts: Callable[[Mapping[str, Any]], dict[str, Any]]
    keys: dict[str, Any]
    """Keys that it reads, and the value of one that a config leaves out; ``...``: it has to be there."""
    fixed: dict[str, tuple[Any, ...]]
    """Keys of which only some values are modelled."""


def _gpt2(keys: Mapping[str, Any]) -> dict[str, Any]:
    drops = {keys[name] for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(drops) > 1:
        raise ValueError(f"resid_pdrop, embd_pdrop and attn_pdrop differ ({', '.join(map(str, sorted(drops)))})")
    return {
        "num_layers": keys["n_layer"],
        "hidden_size": keys["n_embd"],
        "num_heads": keys["n_head"],
        "ffn_hidden_size": keys["n_inner"] or 4 * keys["n_embd"],
        "max_seq_len": keys["n_positions"],
        "dropout": float(drops.pop()),
        "mlp": {"activation": ACTIVATIONS[keys["activation_function"]]},
        "norm": {"epsilon": keys["layer_norm_epsilon"]},
    }


def _llama(keys: Mapping[str, Any], *, biased: bool = False) -> dict[str, Any]:
    bias = biased or keys.get("attention_bias", False)
    heads = keys["num_attention_heads"]
    attention = {
        "kv_heads": keys["num_key_value_heads"] or heads,
        "head_size": keys["head_dim"],
        "qkv_bias": bias,
        "output_bias": bias and not biased,
        "sliding_window": keys.get("sliding_window") if keys.get("use_sliding_window", True) else None,
    }
    return {
        "num_layers": keys["num_hidden_layers"],
        "hidden_size": keys["hidden_size"],
        "num_heads": heads,
        "ffn_hidden_size": keys["intermediate_size"],
        "max_seq_len": keys["max_position_embeddings"],
        "dropout": keys["attention_dropout"],
        "attention": {name: value for name, value in attention.items() if value is not None},
        "positions": _rotary(keys),
        "mlp": {"gated": True, "activation": ACTIVATIONS[keys["hidden_act"]], "bias": keys.get("mlp_bias", False)},
        "norm": {"kind": "rmsnorm", "epsilon": keys["rms_norm_eps"]},
    }


_SCALING_KEYS = {
    "factor": "factor",
    "low_freq_factor": "low_frequency_factor",
    "high_freq_factor": "high_frequency_factor",
    "original_max_position_embeddings": "original_max_seq_len",
}


def _rotary(keys: Mapping[str, Any]) -> dict[str, Any]:
    positions: dict[str, Any] = {"kind": "rotary", "base": float(keys["rope_theta"])}
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
        {"hidden_act": tuple(ACTIVATIONS), "use_mrope": (False,), "layer_types": ()},
    ),
}
"""By ``model_type``. The defaults are those of transformers 4.51.3, models/*/configuration_*.py."""


def config_file(path: Path) -> Path | None:
    """The ``config.json`` that a path names or that lies in the folder it names; ``None``: it is none of them."""
    if os.path.isdir(path):  # noqa: PTH112 (a name too long to be one is none)
        return path / CONFIG
    return path if path.suffix == ".json" else None


def read_config(path: Path, shown: str) -> ModelSpec:
    """The model of a ``config.json``.

    Sequences are as long as the model's positions, and at most 8192 tokens; the batch is :data:`BATCH` of them.

    Raises:
        PlanError: it cannot be read, is of another family, or has keys or values that no part stands for.
    """
    fields = _read(path, shown)
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise usage_error(
            f"the model is of type {kind!r}", location=shown, hint=f"gptplan knows {', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[kind]
    _refuse(fields, family, shown)
    try:
        spec = {**family.parts({**family.keys, **fields}), **_step(fields, family, path)}
        return msgspec.convert({name: value for name, value in spec.items() if value is not None}, ModelSpec)
    except (msgspec.ValidationError, ValueError, TypeError, KeyError) as error:
        raise usage_error(f"the config is not valid: {error}", location=shown) from error


def _step(fields: Mapping[str, Any], family: Family, path: Path) -> dict[str, Any]:
    longest = next(fields.get(key, family.keys.get(key)) for key in _LENGTHS if key in family.keys)
    name = path.parent.name if path.name == CONFIG else path.stem
    source = f"{CONFIG} of {name}"
    return {
        "name": "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).lstrip("._-")[:64],
        "title": f"{fields['model_type']} model of {path.name}",
        "vocab_size": fields["vocab_size"],
        "tied_embeddings": fields.get("tie_word_embeddings", family.keys["tie_word_embeddings"]),
        "seq_len": min(longest, 8192),
        "global_batch": BATCH,
        "precision": PRECISIONS.get(str(fields.get("torch_dtype", fields.get("dtype"))), "bf16"),
        "sources": dict.fromkeys(("num_layers", "hidden_size", "num_heads", "vocab_size", "max_seq_len"), source),
    }


_LENGTHS = ("max_position_embeddings", "n_positions")


def _refuse(fields: Mapping[str, Any], family: Family, shown: str) -> None:
    """Name every key that is missing, unknown, or has a value that is not modelled."""
    found = [f"`{key}` is missing" for key, default in family.keys.items() if default is ... and key not in fields]
    for key, value in fields.items():
        if key in family.fixed and value not in family.fixed[key]:
            known = ", ".join(map(repr, family.fixed[key])) or "nothing"
            found.append(f"`{key}` is {value!r}, of which {known} is modelled")
        elif key not in family.keys and key not in family.fixed and key not in IDLE:
            found.append(f"`{key}` is {value!r}, which no part of a model stands for")
    if found:
        raise PlanError(*(Diagnostic(rule="USAGE", message=one, location=shown, hint="") for one in found))


def _read(path: Path, shown: str) -> dict[str, Any]:
    try:
        if path.is_file() and path.stat().st_size > MAX_CONFIG_BYTES:
            raise usage_error("the config is larger than 1 MiB", location=shown)
        fields = json.loads(path.read_bytes())
    except OSError as error:
        hint = f"name a {CONFIG} of the Hugging Face Hub, or a folder with one"
        raise usage_error(f"cannot read the config: {error.strerror}", location=shown, hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise usage_error(f"the config is not JSON: {error}", location=shown) from error
    if not isinstance(fields, dict):
        raise usage_error("the config is no JSON object", location=shown)
    return fields
