"""The families of models that Transformers builds: what they are called there, and what is divided how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from planner.specs import ModelSpec
from planner.specs.model import Activation

ATTENTION = "gptplan_causal"
"""Under this name Transformers finds :func:`runtime.states.model.causal_attention`."""

ACTIVATIONS: Mapping[Activation, str] = {
    "gelu": "gelu",
    # The same function as GPT-2's gelu_new, in one kernel.
    "gelu-tanh": "gelu_pytorch_tanh",
    "silu": "silu",
    "relu": "relu",
}
"""What Transformers calls the functions of a spec."""


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """What a family has of its own."""

    config: str
    """Its configuration in Transformers."""
    model: str
    """Its model with a loss head there."""
    settings: Callable[[ModelSpec], dict[str, Any]]
    """The configuration of a spec, but for what all families call alike."""
    attention: str
    """The attention that is causal where Transformers runs the blocks."""
    prepare: Callable[[Any], None]
    """Completes a model without storage."""
    blocks: str
    embedding: str
    final_norm: str
    positions: str = ""
    """A learned table, which is on the first stage."""
    experts: str = ""
    """What a block calls the list of its experts."""
    residual_outputs: str = ""
    """Weights that are drawn smaller, since they write to the residual stream."""
    split_axes: Mapping[str, int]
    """The axis along which tensor parallelism divides parameters, by a part of their names."""

    def split_axis(self, name: str) -> int | None:
        """The axis along which tensor parallelism divides a parameter; ``None``: it does not."""
        return next((axis for part, axis in self.split_axes.items() if part in name), None)


def family_of(spec: ModelSpec) -> ModelFamily:
    """The family of a model; rules refuse those of none."""
    return FAMILIES[str(spec.family)]


def _gpt2(spec: ModelSpec) -> dict[str, Any]:
    return {
        "n_layer": spec.num_layers,
        "n_embd": spec.hidden_size,
        "n_head": spec.num_heads,
        "n_inner": spec.ffn_hidden_size,
        "n_positions": spec.max_seq_len,
        "layer_norm_epsilon": spec.norm.epsilon,
        "resid_pdrop": spec.dropout,
        "embd_pdrop": spec.dropout,
        "attn_pdrop": spec.dropout,
        "activation_function": ACTIVATIONS[spec.mlp.activation],
    }


def _rotary(spec: ModelSpec) -> dict[str, Any]:
    return {
        "num_hidden_layers": spec.num_layers,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_hidden_size,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_size,
        "hidden_act": ACTIVATIONS[spec.mlp.activation],
        "rms_norm_eps": spec.norm.epsilon,
        "attention_dropout": spec.dropout,
        **_rotations(spec),
    }


def _rotations(spec: ModelSpec) -> dict[str, Any]:
    """Base and scaling; Transformers takes the longest sequence for the original one of dynamic and YaRN scaling."""
    own, longest = spec.positions, spec.max_seq_len
    original = own.original_max_seq_len or longest
    plain = {"rope_theta": own.base, "max_position_embeddings": longest}
    if own.scaling == "none":
        return plain
    scaling: dict[str, Any] = {"rope_type": own.scaling, "factor": own.factor}
    if own.scaling == "llama3":
        scaling |= {
            "low_freq_factor": own.low_frequency_factor,
            "high_freq_factor": own.high_frequency_factor,
            "original_max_position_embeddings": original,
        }
    else:
        plain["max_position_embeddings"] = longest if own.scaling == "linear" else original
    return {**plain, "rope_scaling": scaling}


def _mistral(spec: ModelSpec) -> dict[str, Any]:
    return {**_rotary(spec), "sliding_window": spec.attention.sliding_window}


def _qwen2(spec: ModelSpec) -> dict[str, Any]:
    window = spec.attention.sliding_window
    return {**_mistral(spec), "use_sliding_window": window is not None, "max_window_layers": 0}


def _mixtral(spec: ModelSpec) -> dict[str, Any]:
    assert spec.experts is not None, "a family with experts"
    return {
        **_mistral(spec),
        "intermediate_size": spec.experts.ffn_hidden_size,
        "num_local_experts": spec.experts.count,
        "num_experts_per_tok": spec.experts.top_k,
        "router_aux_loss_coef": spec.experts.balance_loss,
    }


def _without_masks(model: Any) -> None:
    for block in model.transformer.h:
        # Attention is causal without these; one is a square of the sequence length per layer.
        block.attn.bias = block.attn.masked_bias = None


def _with_wave_lengths(model: Any) -> None:
    # They are no parameters that are drawn later: computed, they have to have storage.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def _rotary_family(name: str, settings: Callable[[ModelSpec], dict[str, Any]], *, experts: str = "") -> ModelFamily:
    return ModelFamily(
        config=f"{name}Config",
        model=f"{name}ForCausalLM",
        settings=settings,
        attention="sdpa",
        prepare=_with_wave_lengths,
        blocks="model.layers",
        embedding="model.embed_tokens.weight",
        final_norm="model.norm",
        experts=experts,
        split_axes={
            **{".o_proj.": 1, ".down_proj.": 1, "_proj.": 0, ".embed_tokens.": 0, "lm_head.": 0},
            **({".w2.": 1, ".w1.": 0, ".w3.": 0, ".gate.": 0} if experts else {}),
        },
    )


FAMILIES: Mapping[str, ModelFamily] = {
    "gpt2": ModelFamily(
        config="GPT2Config",
        model="GPT2LMHeadModel",
        settings=_gpt2,
        attention=ATTENTION,
        prepare=_without_masks,
        blocks="transformer.h",
        embedding="transformer.wte.weight",
        final_norm="transformer.ln_f",
        positions="transformer.wpe.weight",
        residual_outputs="c_proj.weight",
        # Its weights are stored as inputs by outputs.
        split_axes={".c_attn.": -1, ".c_fc.": -1, "c_proj.weight": 0, ".wte.": 0, "lm_head.": 0},
    ),
    "llama": _rotary_family("Llama", _rotary),
    "mistral": _rotary_family("Mistral", _mistral),
    "qwen2": _rotary_family("Qwen2", _qwen2),
    "mixtral": _rotary_family("Mixtral", _mixtral, experts="block_sparse_moe.experts"),
}
"""By what Transformers calls the type of a model, which is also what a spec calls it."""
