"""Mixtral's experts on the ranks of a group: the library's block with what it gets wrong put right."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from colossalai.moe._operation import EPGradScalerIn, EPGradScalerOut, all_to_all_uneven
from colossalai.shardformer.layer import Linear1D_Col, Linear1D_Row
from colossalai.shardformer.modeling.mixtral import EPMixtralSparseMoeBlock
from colossalai.shardformer.policies.base_policy import SubModuleReplacementDescription
from torch import Tensor, nn
from torch.nn import functional

from runtime.patches.rotary import LlamaShardPolicy
from runtime.patches.router_loss import pick

EXPERTS = "block_sparse_moe"
"""What a block of Mixtral calls its router and experts."""


class RoutedExperts(EPMixtralSparseMoeBlock):  # type: ignore[misc]
    """A router and this rank's experts, to which every rank of its group sends the tokens that picked them.

    The library multiplies the gradient of an expert by the replicas of it over those that got a token in this micro
    batch (colossalai 0.5.0: moe/_operation.py:335-378), though the average over data parallelism divides by all of
    them, as it has to: tokens that a replica did not get are tokens without a gradient. Here nothing is multiplied,
    and every expert runs once a micro batch, on one row of zeros if it got no token, so that all ranks have the same
    gradients to reduce and the ranks of tensor parallelism the same products to sum.
    """

    pick = staticmethod(pick)
    counted: Tensor | None = None
    """``[experts]``: how often this rank's tokens picked each, since somebody last took that away."""

    @staticmethod
    def from_native_module(
        module: nn.Module, tp_group: Any = None, moe_dp_group: Any = None, ep_group: Any = None, **settings: Any
    ) -> "RoutedExperts":
        """The block of Transformers with the experts of this rank: all, or where there is ``ep_group`` its share.

        ``tp_group`` divides each of them.
        """
        block: Any = module
        if ep_group is None:
            block.ep_size, block.num_experts_per_ep, block.expert_start_idx = 1, block.num_experts, 0
            if tp_group is not None and tp_group.size() > 1:
                for expert in block.experts:
                    expert.w1 = Linear1D_Col.from_native_module(expert.w1, tp_group)
                    expert.w3 = Linear1D_Col.from_native_module(expert.w3, tp_group)
                    expert.w2 = Linear1D_Row.from_native_module(expert.w2, tp_group)
        else:
            block = EPMixtralSparseMoeBlock.from_native_module(block, tp_group, moe_dp_group, ep_group, **settings)
        block.__class__ = RoutedExperts
        own: RoutedExperts = block
        return own

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """States of the same shape, ``[rows, sequence, hidden]``, and the router's scores, ``[tokens, experts]``."""
        tokens = hidden_states.flatten(0, 1)
        scores: Tensor = self.gate(tokens)
        probabilities = functional.softmax(scores, dim=-1, dtype=torch.float)
        picked = self.pick(probabilities, self.top_k)
        weights = probabilities.gather(-1, picked)
        weights = (weights / weights.sum(dim=-1, keepdim=True)).to(tokens.dtype)
        order = picked.flatten().argsort(stable=True)
        sent = tokens[order // self.top_k]
        counts = picked.flatten().bincount(minlength=self.num_experts)
        self.counted = counts if self.counted is None else self.counted + counts
        returned = self._at_experts(sent, counts)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        states = (returned[places].view(*picked.shape, -1) * weights[..., None]).sum(dim=1)
        return states.view(hidden_states.shape), scores

    def _at_experts(self, sent: Tensor, counts: Tensor) -> Tensor:
        """What the experts make of ``sent``, which is ordered by expert; ``counts`` are those of each expert."""
        if self.ep_size == 1:
            return self._by_expert(sent, [counts.tolist()])
        arriving = torch.empty_like(counts)
        dist.all_to_all_single(arriving, counts, group=self.ep_group)
        # The host waits for the device once, to learn both.
        sizes = torch.stack((counts, arriving)).view(2, self.ep_size, self.num_experts_per_ep).tolist()
        give, take = ([sum(of_rank) for of_rank in table] for table in sizes)
        states, _ = all_to_all_uneven(sent, give, take, self.ep_group)
        # A rank's loss is the mean of its own tokens; an expert has those of all ranks of the group.
        states = EPGradScalerIn.apply(states, self.ep_size)
        states = self._by_expert(states, sizes[1])
        states = EPGradScalerOut.apply(states, self.ep_size)
        returned: Tensor
        returned, _ = all_to_all_uneven(states, take, give, self.ep_group)
        return returned

    def _by_expert(self, states: Tensor, lengths: list[list[int]]) -> Tensor:
        """Each expert's product of all it got; ``states`` are in the order of the ranks, and of experts in each."""
        pieces = torch.split(states, [length for of_rank in lengths for length in of_rank])
        made: list[list[Tensor]] = []
        for number in range(self.num_experts_per_ep):
            expert: Any = self.experts[self.expert_start_idx + number]
            own = torch.cat(pieces[number :: self.num_experts_per_ep])
            # Joined with what arrived, of which there is nothing: backward has to come to the all-to-all on every rank.
            rows = own if len(own) else torch.cat((own, own.new_zeros(1, own.shape[1])))
            result = expert.w2(expert.act_fn(expert.w1(rows)) * expert.w3(rows))
            made.append(list(torch.split(result[: len(own)], [of_rank[number] for of_rank in lengths])))
        return torch.cat([piece for of_rank in zip(*made, strict=True) for piece in of_rank])


def routers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The blocks that route tokens, by their names."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == EXPERTS:
            yield name, module


def route_tokens(model: Any) -> None:
    """Have the blocks of a model that no group divides send tokens to their experts; those of other models stay."""
    for block in getattr(model.base_model, "layers", ()):
        if hasattr(block, EXPERTS):
            setattr(block, EXPERTS, RoutedExperts.from_native_module(getattr(block, EXPERTS)))


class MixtralShardPolicy(LlamaShardPolicy):
    """The library's policy of Llama for what Mixtral has alike, and for the rest that of Mixtral.

    Its own for Mixtral takes no vocabulary that tensor parallelism does not divide and makes whole rows of logits on
    every rank.
    """

    block_type: type[EPMixtralSparseMoeBlock] = RoutedExperts

    def module_policy(self) -> dict[Any, Any]:
        """Which modules, attributes and methods are replaced."""
        policy = super().module_policy()
        config = self.shard_config
        description = policy[type(self.model.model.layers[0])]
        kept = [one for one in description.sub_module_replacement or [] if not one.suffix.startswith("mlp.")]
        if config.enable_tensor_parallelism:
            # Gathered, its scores are the same on all ranks of a group, whatever rounding they had.
            gate = {"target_module": Linear1D_Col, "kwargs": {"gather_output": True}}
            kept.append(SubModuleReplacementDescription(suffix=f"{EXPERTS}.gate", **gate))
        groups = {
            "ep_group": config.ep_group,
            "tp_group": config.tensor_parallel_process_group,
            "moe_dp_group": config.moe_dp_group,
        }
        kept.append(SubModuleReplacementDescription(suffix=EXPERTS, target_module=self.block_type, kwargs=groups))
        description.sub_module_replacement = kept
        return policy
