"""The GPT-2 model of a spec: its attention and its weights."""

import hashlib
import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from colossalai.lazy.lazy_init import LazyTensor
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from planner.specs import ModelSpec

ATTENTION = "gptplan_causal"
INITIAL_STD = 0.02
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention over packed sequences, whatever mask the caller made.

    Colossal-AI's GPT-2 forward always hands a padding mask to its blocks, and the attention that
    Transformers picks by default is not causal once it is given a mask. Packed sequences have no
    padding, so the mask says nothing and is left out.
    """
    output = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
    return output.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, causal_attention)


def model_config(spec: ModelSpec, attention: str = ATTENTION) -> GPT2Config:
    """The Transformers configuration of ``spec``."""
    return GPT2Config(
        n_layer=spec.num_layers,
        n_embd=spec.hidden_size,
        n_head=spec.num_heads,
        n_inner=spec.ffn_hidden_size,
        vocab_size=spec.vocab_size,
        n_positions=spec.max_seq_len,
        tie_word_embeddings=spec.tied_embeddings,
        resid_pdrop=spec.dropout,
        embd_pdrop=spec.dropout,
        attn_pdrop=spec.dropout,
        # The same function as GPT-2's gelu_new, in one kernel.
        activation_function="gelu_pytorch_tanh",
        use_cache=False,
        attn_implementation=attention,
    )


def build_model(
    spec: ModelSpec,
    seed: int,
    *,
    layers: Collection[int] | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = ATTENTION,
) -> GPT2LMHeadModel:
    """The model with its initial weights on the CPU; what a stage of only ``layers`` lacks has no storage.

    Every parameter is drawn from a generator of its own, seeded by ``seed`` and the parameter's
    name. So the weights do not depend on the layout, and a rank needs memory only for its own
    pipeline stage, not for the whole model. They are drawn in float32 and rounded once to
    ``dtype``, as Colossal-AI rounds them before it makes its float32 copies.
    """
    model = _empty_model(spec, attention)
    layers = range(spec.num_layers) if layers is None else layers
    for name, parameter in list(model.named_parameters()):
        if _is_held(name, layers, spec):
            value = _initial_value(name, parameter.shape, spec.num_layers, seed).to(dtype)
            _set_parameter(model, name, nn.Parameter(value))
    model.tie_weights()
    return model.train()


def build_lazy_model(spec: ModelSpec, seed: int, *, dtype: torch.dtype, attention: str = ATTENTION) -> GPT2LMHeadModel:
    """:func:`build_model` of all layers, each parameter drawn only when Colossal-AI asks for it.

    So a plugin that divides parameters one after the other never has the whole model in memory.
    """
    model = _empty_model(spec, attention)
    for name, parameter in list(model.named_parameters()):
        shape = parameter.shape

        def draw(name: str = name, shape: torch.Size = shape) -> Tensor:
            return _initial_value(name, shape, spec.num_layers, seed).to(dtype)

        lazy = LazyTensor(draw, meta_data=torch.empty(shape, dtype=dtype, device="meta"))
        _set_parameter(model, name, nn.Parameter(lazy))
    model.tie_weights()
    return model.train()


def _empty_model(spec: ModelSpec, attention: str) -> GPT2LMHeadModel:
    with torch.device("meta"):
        model = GPT2LMHeadModel(model_config(spec, attention))
    for block in model.transformer.h:
        # Attention is causal without these; one is a square of the sequence length per layer.
        block.attn.bias = block.attn.masked_bias = None
    return model


def _set_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, parameter)


def _is_held(name: str, layers: Collection[int], spec: ModelSpec) -> bool:
    first, last = 0 in layers, spec.num_layers - 1 in layers
    if name.startswith("transformer.h."):
        return int(name.split(".")[2]) in layers
    if name == "transformer.wte.weight":
        return first or (last and spec.tied_embeddings)
    return first if name == "transformer.wpe.weight" else last


def _initial_value(name: str, shape: torch.Size, num_layers: int, seed: int) -> Tensor:
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if ".ln_" in name:
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    # GPT-2 divides the weights that write to the residual stream by the root of their number.
    std = INITIAL_STD / math.sqrt(2 * num_layers) if name.endswith("c_proj.weight") else INITIAL_STD
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def initial_parameters(spec: ModelSpec, seed: int) -> Callable[[str], Tensor]:
    """Draws the whole initial parameter of a name, in float32: the one that :func:`build_model` has."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in GPT2LMHeadModel(model_config(spec)).named_parameters()}
    return lambda name: _initial_value(name, shapes[name], spec.num_layers, seed)
