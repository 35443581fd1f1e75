"""The GPT-2 model of a spec: its attention, its weights and how Colossal-AI may divide it."""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from colossalai.shardformer.layer import DropoutForParallelInput, cross_entropy_1d
from colossalai.shardformer.modeling.gpt2 import GPT2PipelineForwards
from colossalai.shardformer.policies.gpt2 import GPT2LMHeadModelPolicy
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from planner.spec import ModelSpec

ATTENTION = "gptplan_causal"
INITIAL_STD = 0.02
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def causal_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    *, dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, None]:  # fmt: skip
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
    layers: range | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = ATTENTION,
) -> GPT2LMHeadModel:
    """The model with its initial weights on the CPU; what a stage of only ``layers`` lacks has no storage.

    Every parameter is drawn from a generator of its own, seeded by ``seed`` and the parameter's
    name. So the weights do not depend on the layout, and a rank needs memory only for its own
    pipeline stage, not for the whole model. They are drawn in float32 and rounded once to
    ``dtype``, as Colossal-AI rounds them before it makes its float32 copies.
    """
    with torch.device("meta"):
        model = GPT2LMHeadModel(model_config(spec, attention))
    for block in model.transformer.h:
        # Attention is causal without these; one is a square of the sequence length per layer.
        block.attn.bias = block.attn.masked_bias = None
    layers = range(spec.num_layers) if layers is None else layers
    for name, parameter in list(model.named_parameters()):
        if _is_held(name, layers, spec):
            value = _initial_value(name, parameter.shape, spec.num_layers, seed).to(dtype)
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, nn.Parameter(value))
    model.tie_weights()
    return model.train()


def _is_held(name: str, layers: range, spec: ModelSpec) -> bool:
    first, last = layers.start == 0, layers.stop == spec.num_layers
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


def token_loss(logits: Tensor, labels: Tensor, shard_config: Any, vocab_size: int) -> Tensor:
    """Cross-entropy, averaged in float32; ``labels`` are the next tokens, so nothing is shifted here.

    Summing in the working precision, as Colossal-AI does without tensor parallelism, leaves two
    digits in bf16 and overflows in fp16 beyond some six thousand tokens. A token's own loss is
    rounded to the working precision here too: float32 logits would cost twice the memory.
    """
    logits, labels = logits.flatten(0, 1), labels.flatten()
    if shard_config.enable_tensor_parallelism:
        group = shard_config.tensor_parallel_process_group
        total: Tensor = cross_entropy_1d(
            logits, labels, process_group=group, vocab_size=vocab_size, dtype=logits.dtype, mode="sum"
        )
        return total / labels.numel()
    return functional.cross_entropy(logits, labels, reduction="none").float().mean()


class _Stage(NamedTuple):
    """What a forward has to know about the part of the model it runs."""

    shard_config: Any
    manager: Any = None
    layers: list[int] | None = None
    """First block and the one after the last; ``None`` without a pipeline."""


def _forward(
    self: GPT2LMHeadModel,
    input_ids: Tensor | None = None,
    labels: Tensor | None = None,
    hidden_states: Tensor | None = None,
    *,
    stage: _Stage,
) -> dict[str, Tensor]:
    """Hidden states between stages; at the end the loss, or logits if there are no labels."""
    states: Tensor = input_ids if hidden_states is None else hidden_states  # type: ignore[assignment]
    outputs = GPT2PipelineForwards.gpt2_model_forward(
        self.transformer, input_ids, hidden_states=hidden_states, return_dict=True,
        attention_mask=torch.ones(states.shape[:2], device=states.device), stage_manager=stage.manager,
        stage_index=stage.layers, shard_config=stage.shard_config, force_sp_gather=False,
    )  # fmt: skip
    if stage.manager is not None and not stage.manager.is_last_stage():
        return {"hidden_states": outputs["hidden_states"]}
    logits = self.lm_head(outputs[0])
    if labels is None:
        return {"logits": logits}
    return {"loss": token_loss(logits, labels, stage.shard_config, self.lm_head.out_features)}


class ShardPolicy(GPT2LMHeadModelPolicy):  # type: ignore[misc]
    """Colossal-AI's policy for GPT-2 with three corrections.

    The loss is :func:`token_loss`. A forward without labels gives logits. Dropout stays PyTorch's:
    the library's draws other numbers on each tensor-parallel rank even where all ranks hold the
    same activations, so that replicas drift apart, and draws again when a layer is recomputed.
    """

    def module_policy(self) -> dict[Any, Any]:
        """Which modules, attributes and methods are replaced."""
        policy: dict[Any, Any] = super().module_policy()
        for description in policy.values():
            description.sub_module_replacement = [
                replacement
                for replacement in description.sub_module_replacement or []
                if replacement.target_module is not DropoutForParallelInput
            ]
        stage = _Stage(self.shard_config)
        if self.pipeline_stage_manager is not None:
            manager = self.pipeline_stage_manager
            layers = manager.distribute_layers(len(self.model.transformer.h))
            stage = _Stage(self.shard_config, manager, manager.get_stage_index(layers))
        policy[GPT2LMHeadModel].method_replacement = {"forward": partial(_forward, stage=stage)}
        return policy
