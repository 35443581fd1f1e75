"""Small models of the families beside GPT-2, each with parts of its own: scaling, windows, sizes of heads, biases."""

from typing import Any

from tests.runtime.conftest import SEQ_LEN

_COMMON: dict[str, Any] = {
    "num_heads": 8,
    "norm": {"kind": "rmsnorm", "epsilon": 1e-5},
    "mlp": {"gated": True, "activation": "silu", "bias": False},
}
_ATTENTION = {"kv_heads": 4, "qkv_bias": False, "output_bias": False}
_ORIGINAL = SEQ_LEN // 2

MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        **_COMMON,
        "attention": _ATTENTION,
        "positions": {
            "kind": "rotary",
            "scaling": "llama3",
            "factor": 8.0,
            "base": 100.0,
            "original_max_seq_len": _ORIGINAL,
        },
    },
    "mistral": {
        **_COMMON,
        "attention": {**_ATTENTION, "head_size": 8, "sliding_window": 6},
        "positions": {"kind": "rotary", "scaling": "yarn", "factor": 4.0, "original_max_seq_len": _ORIGINAL},
    },
    "qwen2": {
        **_COMMON,
        "attention": {**_ATTENTION, "qkv_bias": True, "sliding_window": 6},
        "positions": {"kind": "rotary", "scaling": "dynamic", "factor": 4.0, "original_max_seq_len": _ORIGINAL},
    },
}
"""By family: 4 layers of 32 units; sequences are longer than windows and than the original longest ones."""

MIXTRAL: dict[str, Any] = {
    **_COMMON,
    "attention": _ATTENTION,
    "positions": {"kind": "rotary"},
    "experts": {"count": 4, "top_k": 2, "ffn_hidden_size": 48, "balance_loss": 0.02},
}
"""With experts; not one of the others, since no layout splits its sequences."""
