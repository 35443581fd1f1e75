"""How Colossal-AI divides Llama, Mistral and Qwen2: its policy for Llama with what it gets wrong put right."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from colossalai.shardformer.layer._operation import all_to_all_comm, gather_sp_output, split_forward_gather_backward
from colossalai.shardformer.policies.base_policy import ModulePolicyDescription
from colossalai.shardformer.policies.llama import LlamaForCausalLMPolicy
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from runtime.patches.policy import Stage, at_head
from runtime.patches.router_loss import RouterTally
from runtime.patches.weight_gradients import leave_undivided

SPLIT_GATHER, ALL_TO_ALL = "split_gather", "all_to_all"
"""Sequence parallelism inside of the tensor-parallel group, and over ranks of its own."""
_PARTS = ("ForCausalLM", "Model", "DecoderLayer", "Attention")
"""How the names of the classes end whose instances a policy changes."""


def _own_tokens(tokens: Tensor | None, config: Any) -> Any:
    """The columns of ``tokens``, ``[rows, sequence]``, that this rank embeds and has a loss of."""
    if tokens is None or config.sequence_parallelism_mode != ALL_TO_ALL:
        return tokens
    rank = dist.get_rank(config.sequence_parallel_process_group)
    return tokens.chunk(config.sequence_parallel_size, dim=1)[rank]


def _window_mask(states: Tensor, length: int, window: int | None) -> Tensor | None:
    """What a token sees of the ``window`` tokens up to itself, ``[1, 1, length, length]``; ``None``: all before it."""
    if window is None or length <= window:
        return None
    distance = torch.arange(length, device=states.device)
    distance = distance[:, None] - distance
    return ((distance >= 0) & (distance < window))[None, None]


def _forward(
    self: Any,
    input_ids: Tensor | None = None,
    labels: Tensor | None = None,
    hidden_states: Tensor | None = None,
    stage_index: list[int] | None = None,
    *,
    stage: Stage,
    **routed: Tensor,
) -> dict[str, Tensor]:
    """Hidden states between stages; at the end the loss of this rank's tokens, or their logits without labels.

    The interleaved schedule passes the blocks of the chunk to run as ``stage_index``. With experts that a loss keeps
    balanced, stages also send each other the fields of a :class:`RouterTally`, which are ``routed``.
    """
    body, config = self.model, stage.shard_config
    splits = config.sequence_parallelism_mode == SPLIT_GATHER
    if hidden_states is None:
        hidden_states = body.embed_tokens(_own_tokens(input_ids, config))
        if splits:
            hidden_states = split_forward_gather_backward(hidden_states, 1, config.sequence_parallel_process_group)
    states: Tensor = hidden_states
    length = states.shape[1] * config.sequence_parallel_size
    rotations = body.rotary_emb(states, torch.arange(length, device=states.device)[None])
    mask, documents = None, getattr(self, "documents", None)
    if documents is None:
        mask = _window_mask(states, length, getattr(self.config, "sliding_window", None))
    else:
        documents.read(input_ids)  # rotations tell distances, wherever a document begins
    first, end = stage_index or stage.layers or (0, len(body.layers))
    tally = RouterTally.of(self, routed, states.device)
    settings = {} if tally is None else {"output_router_logits": True}
    for block in body.layers[first:end]:
        states, *scores = block(states, attention_mask=mask, position_embeddings=rotations, **settings)
        tally = None if tally is None else tally.plus(scores[-1], block.block_sparse_moe)
    if not stage.is_last:
        return {"hidden_states": states, **({} if tally is None else tally._asdict())}
    states = body.norm(states)
    if splits:
        states = gather_sp_output(states, config)
    found = at_head(self, states, _own_tokens(labels, config), config)
    if tally is not None and "loss" in found:
        found["loss"] = found["loss"] + tally.loss(self.config)
    return found


def causal_attention(config: Any) -> Callable[..., Any]:
    """A forward of attention blocks that sees no later token, whatever divides the sequence.

    Colossal-AI has its own softmax under sequence parallelism, and hands it no mask where Transformers leaves
    causality to PyTorch's kernels.
    """
    return partial(_attention, group=_exchange_group(config))


def attend_as_divided(model: Any) -> None:
    """Have attention blocks that nothing divides run as those that :func:`causal_attention` gives a forward.

    Those of GPT-2 stay as they are.
    """
    for block in getattr(model.base_model, "layers", ()):
        block.self_attn.forward = partial(_attention, block.self_attn, group=None)


def _exchange_group(config: Any) -> Any:
    return config.sequence_parallel_process_group if config.sequence_parallelism_mode == ALL_TO_ALL else None


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None = None,
    *,
    group: Any,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of whole sequences: products gather them inside of a tensor-parallel group, ``group`` exchanges them.

    The ranks of ``group`` have slices of a sequence with all heads before and after, and some heads with all of
    the sequence in between.
    """

    def heads(projection: nn.Module) -> Tensor:
        states: Tensor = projection(hidden_states)
        if group is not None:
            states = all_to_all_comm(states, group)
        return states.view(*states.shape[:2], -1, self.head_dim).transpose(1, 2)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.attention_dropout if self.training else 0.0
        seen: Tensor
        seen, _ = sdpa_attention_forward(self, query, key, value, mask, dropout=dropout, scaling=self.scaling)
        return seen

    def attend_within(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        window = getattr(self.config, "sliding_window", None)
        return attend(query, key, value, _window_mask(query, query.shape[2], window))

    query, key = apply_rotary_pos_emb(heads(self.q_proj), heads(self.k_proj), *position_embeddings)
    documents, value = getattr(self, "documents", None), heads(self.v_proj)
    if documents is None:
        states = attend(query, key, value, attention_mask)
    else:
        states = documents.attend(attend_within, query, key, value)
    states = states.flatten(2)
    if group is not None:
        states = all_to_all_comm(states, group, scatter_dim=1, gather_dim=2)
    return self.o_proj(states), None


class Corrections:
    """What is put right in a policy of the library for one of these families.

    Every stage and rank runs :func:`_forward`, with the loss of :func:`runtime.patches.policy.at_head` and
    :func:`causal_attention`, whose windows are as wide in a pipeline as without.
    """

    model: Any
    shard_config: Any

    def module_policy(self) -> dict[Any, Any]:
        """Which modules, attributes and methods are replaced, by the classes of the model at hand."""
        block = self.model.model.layers[0]
        own = {
            "ForCausalLM": self.model,
            "Model": self.model.model,
            "DecoderLayer": block,
            "Attention": block.self_attn,
        }
        found: dict[Any, Any] = super().module_policy()  # type: ignore[misc]
        policy: dict[Any, Any] = {type(module): ModulePolicyDescription() for module in own.values()}
        for key, description in found.items():
            name = key if isinstance(key, str) else key.__name__
            kind = next(type(module) for ending, module in own.items() if name.endswith(ending))
            policy[kind] = description
        leave_undivided(policy)
        stage = Stage.of(self, len(self.model.model.layers))
        policy[type(self.model)].method_replacement = {"forward": partial(_forward, stage=stage)}
        policy[type(self.model.model)].method_replacement = None
        policy[type(block.self_attn)].method_replacement = {"forward": causal_attention(self.shard_config)}
        return policy


class LlamaShardPolicy(Corrections, LlamaForCausalLMPolicy):  # type: ignore[misc]
    """The library's policy for Llama, for all three families: their modules have the same names and products.

    Its own for Mistral leaves sequence parallelism out and its own for Qwen2 has no head for a vocabulary that does
    not divide, nor the right heads where both tensor and sequence parallelism divide them.
    """


def policy_of(family: str) -> Any:
    """The policy of a family."""
    return LlamaShardPolicy()


def keep_wave_lengths(model: nn.Module) -> None:
    """Give rotary positions their wave lengths in float32 again; the library rounds them with the weights.

    In bf16 they are off by up to 0.4 %, which far into a sequence is another rotation altogether.
    """
    module: Any
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq = module.original_inv_freq.to(module.inv_freq.device)
