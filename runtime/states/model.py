"""The model of a spec as Transformers builds it: GPT-2's attention, and the weights of every family."""

import hashlib
import math
from collections.abc import Callable, Collection
from typing import Any

import torch
import transformers
from colossalai.lazy.lazy_init import LazyTensor
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, no_init_weights

from planner.specs import ModelSpec
from runtime.states.documents import Documents
from runtime.states.families import ATTENTION, FAMILIES, family_of

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
    padding, so the mask says nothing and is left out. A ``module`` with documents keeps them apart.
    """

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        states = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return states.transpose(1, 2)

    documents: Documents | None = getattr(module, "documents", None)
    return attend(query, key, value) if documents is None else documents.attend(attend, query, key, value), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, causal_attention)


def model_config(spec: ModelSpec, attention: str | None = None) -> Any:
    """The Transformers configuration of ``spec``; its own ``attention`` is the causal one of its family."""
    family = family_of(spec)
    return getattr(transformers, family.config)(
        **family.settings(spec),
        vocab_size=spec.vocab_size,
        tie_word_embeddings=spec.tied_embeddings,
        use_cache=False,
        attn_implementation=attention or family.attention,
    )


def blocks_of(model: Any) -> nn.ModuleList:
    """The transformer blocks of a model of Transformers."""
    blocks: Any = model.get_submodule(FAMILIES[model.config.model_type].blocks)
    return blocks


def saved_config(spec: ModelSpec) -> str:
    """The `config.json` with which Transformers loads the weights: in float32, with an attention of its own."""
    config = model_config(spec, attention="sdpa")
    config.architectures, config.torch_dtype, config.use_cache = [family_of(spec).model], torch.float32, True
    text: str = config.to_json_string()
    return text


def build_model(
    spec: ModelSpec,
    seed: int,
    *,
    layers: Collection[int] | None = None,
    experts: Collection[int] | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str | None = None,
) -> Any:
    """The model with its initial weights on the CPU; what a rank of only ``layers``, ``experts`` lacks has no storage.

    Every parameter is drawn from a generator of its own, seeded by ``seed`` and the parameter's
    name. So the weights do not depend on the layout, and a rank needs memory only for its own
    pipeline stage, not for the whole model. They are drawn in float32 and rounded once to
    ``dtype``, as Colossal-AI rounds them before it makes its float32 copies.
    """
    model = _empty_model(spec, attention)
    layers = range(spec.num_layers) if layers is None else layers
    for name, parameter in list(model.named_parameters()):
        if _is_held(name, layers, spec) and (experts is None or _expert(name, spec) in {None, *experts}):
            value = _initial_value(name, parameter.shape, spec, seed).to(dtype)
            _set_parameter(model, name, nn.Parameter(value))
    model.tie_weights()
    return model.train()


def build_lazy_model(spec: ModelSpec, seed: int, *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """:func:`build_model` of all layers, each parameter drawn only when Colossal-AI asks for it.

    So a plugin that divides parameters one after the other never has the whole model in memory.
    """
    model = _empty_model(spec, attention)
    for name, parameter in list(model.named_parameters()):
        shape = parameter.shape

        def draw(name: str = name, shape: torch.Size = shape) -> Tensor:
            return _initial_value(name, shape, spec, seed).to(dtype)

        lazy = LazyTensor(draw, meta_data=torch.empty(shape, dtype=dtype, device="meta"))
        _set_parameter(model, name, nn.Parameter(lazy))
    model.tie_weights()
    return model.train()


def _empty_model(spec: ModelSpec, attention: str | None) -> Any:
    family, config = family_of(spec), model_config(spec, attention)
    with torch.device("meta"), no_init_weights():
        model = getattr(transformers, family.model)(config)
    family.prepare(model)
    return model


def _set_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, parameter)


def _is_held(name: str, layers: Collection[int], spec: ModelSpec) -> bool:
    family, first, last = family_of(spec), 0 in layers, spec.num_layers - 1 in layers
    if name.startswith(f"{family.blocks}."):
        return int(name.removeprefix(f"{family.blocks}.").partition(".")[0]) in layers
    if name == family.embedding:
        return first or (last and spec.tied_embeddings)
    return first if name == family.positions else last


def _expert(name: str, spec: ModelSpec) -> int | None:
    """The number of the expert that a parameter is of."""
    mark = family_of(spec).experts
    return int(name.partition(f".{mark}.")[2].partition(".")[0]) if mark and f".{mark}." in name else None


def _initial_value(name: str, shape: torch.Size, spec: ModelSpec, seed: int) -> Tensor:
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if len(shape) == 1:  # of a norm
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    smaller = family_of(spec).residual_outputs
    # GPT-2 divides the weights that write to the residual stream by the root of their number.
    std = INITIAL_STD / math.sqrt(2 * spec.num_layers) if smaller and name.endswith(smaller) else INITIAL_STD
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def parameter_shapes(spec: ModelSpec) -> dict[str, torch.Size]:
    """Whole shapes of the parameters by their names in Transformers; a tied head is the embedding."""
    model = _empty_model(spec, None)
    model.tie_weights()
    return {name: value.shape for name, value in model.named_parameters()}


def initial_parameters(spec: ModelSpec, seed: int) -> Callable[[str], Tensor]:
    """Draws the whole initial parameter of a name, in float32: the one that :func:`build_model` has."""
    shapes = parameter_shapes(spec)
    return lambda name: _initial_value(name, shapes[name], spec, seed)
