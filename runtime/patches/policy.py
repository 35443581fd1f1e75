"""How Colossal-AI divides the GPT-2 model: its policy with what it gets wrong put right."""

from functools import partial
from typing import Any, NamedTuple

import torch
from colossalai.shardformer.layer import DropoutForParallelInput, GPT2FusedLinearConv1D_Row, cross_entropy_1d
from colossalai.shardformer.layer.utils import SeqParallelUtils
from colossalai.shardformer.modeling.gpt2 import GPT2PipelineForwards
from colossalai.shardformer.policies.gpt2 import GPT2LMHeadModelPolicy
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2LMHeadModel

from runtime.patches.loss_head import COMPILED, Vocabulary, head_loss
from runtime.patches.weight_gradients import leave_undivided


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of whole rows of logits, averaged in float32; ``labels`` are the next tokens already.

    A token's own loss is rounded to the working precision: float32 logits would cost twice the memory.
    """
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").float().mean()


def token_loss(logits: Tensor, labels: Tensor, shard_config: Any, vocab_size: int) -> Tensor:
    """:func:`mean_loss` of logits that tensor parallelism may have split; nothing is shifted here.

    Summing in the working precision, as Colossal-AI does without tensor parallelism, leaves two
    digits in bf16 and overflows in fp16 beyond some six thousand tokens.
    """
    if not shard_config.enable_tensor_parallelism:
        return mean_loss(logits, labels)
    group = shard_config.tensor_parallel_process_group
    total: Tensor = cross_entropy_1d(
        logits.flatten(0, 1),
        labels.flatten(),
        process_group=group,
        vocab_size=vocab_size,
        dtype=logits.dtype,
        mode="sum",
    )
    return total / labels.numel()


def at_head(model: Any, states: Tensor, labels: Tensor | None, shard_config: Any) -> dict[str, Tensor]:
    """The loss of the states after the last norm, ``[rows, sequence, hidden]``; without labels, their logits.

    By chunks of tokens where ``model`` is compiled.
    """
    head = model.lm_head
    if labels is None:
        return {"logits": head(states)}
    if getattr(model, COMPILED, False):
        return {"loss": head_loss(states, head.weight, labels, Vocabulary.of(head, shard_config))}
    return {"loss": token_loss(head(states), labels, shard_config, head.out_features)}


class Stage(NamedTuple):
    """What a forward has to know about the part of the model it runs."""

    shard_config: Any
    manager: Any = None
    layers: list[int] | None = None
    """First block and the one after the last; ``None`` without a pipeline, and where the schedule says it."""

    @classmethod
    def of(cls, policy: Any, num_layers: int) -> "Stage":
        """The part of a model with ``num_layers`` blocks that ``policy`` leaves to this rank."""
        manager = policy.pipeline_stage_manager
        if manager is None:
            return cls(policy.shard_config)
        layers = manager.distribute_layers(num_layers)
        return cls(policy.shard_config, manager, None if manager.is_interleave else manager.get_stage_index(layers))

    @property
    def is_last(self) -> bool:
        """Whether the loss is here, by the chunk that runs."""
        return self.manager is None or self.manager.is_last_stage()


def _forward(
    self: GPT2LMHeadModel,
    input_ids: Tensor | None = None,
    labels: Tensor | None = None,
    hidden_states: Tensor | None = None,
    stage_index: list[int] | None = None,
    *,
    stage: Stage,
) -> dict[str, Tensor]:
    """Hidden states between stages; at the end the loss, or logits if there are no labels.

    The interleaved schedule passes the blocks of the chunk to run as ``stage_index``.
    """
    states: Tensor = input_ids if hidden_states is None else hidden_states  # type: ignore[assignment]
    documents: Any = getattr(self, "documents", None)
    outputs = GPT2PipelineForwards.gpt2_model_forward(
        self.transformer,
        input_ids,
        hidden_states=hidden_states,
        return_dict=True,
        attention_mask=torch.ones(states.shape[:2], device=states.device),
        position_ids=None if documents is None else documents.read(input_ids),
        stage_manager=stage.manager,
        stage_index=stage.layers if stage_index is None else stage_index,
        shard_config=stage.shard_config,
        force_sp_gather=False,
    )
    if not stage.is_last:
        return {"hidden_states": outputs["hidden_states"]}
    return at_head(self, outputs[0], labels, stage.shard_config)


class ReplicatedDropout(nn.Module):
    """Dropout that draws the same numbers on every tensor-parallel rank, from a generator of its own."""

    def __init__(self, probability: float) -> None:
        """Drop with ``probability``."""
        super().__init__()
        self._probability, self._seed = probability, 0
        self._generator: torch.Generator | None = None

    def seed(self, seed: int) -> None:
        """Start anew; ranks with the same ``seed`` drop the same elements."""
        self._seed, self._generator = seed, None

    def forward(self, states: Tensor) -> Tensor:
        """``states`` with some elements zero and the others scaled up; as they are outside of training."""
        if not self.training or self._probability == 0:
            return states
        if self._generator is None:
            self._generator = torch.Generator(states.device).manual_seed(self._seed)
        keep = 1.0 - self._probability
        mask = torch.empty_like(states).bernoulli_(keep, generator=self._generator)
        return states * mask / keep


class ShardPolicy(GPT2LMHeadModelPolicy):  # type: ignore[misc]
    """Colossal-AI's policy for GPT-2 with four corrections.

    The loss is :func:`at_head`. A forward without labels gives logits. Dropout stays PyTorch's:
    the library's draws other numbers on each tensor-parallel rank even where all ranks hold the
    same activations, so that replicas drift apart, and draws again when a layer is recomputed.
    Under sequence parallelism a row-parallel bias is added to a rank's own slice of the sequence,
    so its gradient is a part that has to be summed over the ranks; the library sums only those of
    LayerNorms.
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
        leave_undivided(policy)
        stage = Stage.of(self, len(self.model.transformer.h))
        policy[GPT2LMHeadModel].method_replacement = {"forward": partial(_forward, stage=stage)}
        return policy

    def get_held_layers(self) -> list[nn.Module]:
        """Modules with storage; under the V the last norm is where the head is, on the first device."""
        held: list[nn.Module] = super().get_held_layers()
        manager, norm = self.pipeline_stage_manager, self.model.transformer.ln_f
        if manager.use_zbv:
            held = [module for module in held if module is not norm]
            if manager.is_first_stage(ignore_chunk=True):
                held.append(norm)
        return held

    def get_shared_params(self) -> list[dict[int, Tensor]]:
        """Tied weights that two devices have; under the V the first has both."""
        manager = self.pipeline_stage_manager
        return [] if manager is not None and manager.use_zbv else super().get_shared_params()

    def postprocess(self) -> nn.Module:
        """Mark the parameters whose gradients the ranks of a split sequence hold in parts."""
        if self.shard_config.enable_sequence_parallelism:
            mark_partial_biases(self.model)
        return self.model


def mark_partial_biases(model: nn.Module) -> None:
    """Have Colossal-AI sum the gradients of row-parallel biases over the ranks that share a sequence."""
    for module in model.modules():
        if isinstance(module, GPT2FusedLinearConv1D_Row):
            SeqParallelUtils.marked_as_sp_partial_derived_param(module.bias)
