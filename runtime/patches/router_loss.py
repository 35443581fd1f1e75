"""The loss that keeps the experts of a model balanced, also where stages of a pipeline have some of its routers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def pick(probabilities: Tensor, top_k: int) -> Tensor:
    """The experts that each token passes, ``[tokens, top_k]``, of ``probabilities``, ``[tokens, experts]``."""
    return probabilities.detach().topk(top_k, dim=-1).indices


class RouterTally(NamedTuple):
    """What routers did in one micro batch, summed over the layers that it has passed.

    The loss is one of all layers together: with the share of tokens that picked an expert and its mean probability,
    both over all tokens and layers, the sum over experts of their products, times the number of experts
    (Transformers 4.51.3: models/mixtral/modeling_mixtral.py, load_balancing_loss_func). The library sends the scores
    of all layers on to the last stage, and their gradients not back (colossalai 0.5.0:
    pipeline/schedule/one_f_one_b.py:322). Here stages send two sums, and the gradient of one is sent back.
    """

    router_probabilities: Tensor
    """``[experts]`` in float32: the sum over layers of mean probabilities."""
    router_picks: Tensor
    """``[experts]``, whole numbers: tokens that picked an expert, over all layers."""

    @classmethod
    def of(cls, model: Any, sent: Mapping[str, Tensor], device: torch.device) -> "RouterTally | None":
        """What the stage before has ``sent``, or nothing yet; ``None`` if ``model`` has no such loss or is judged."""
        config = model.config
        if not (getattr(config, "router_aux_loss_coef", 0.0) and model.training):
            return None
        if sent:
            return cls(received(sent["router_probabilities"]), sent["router_picks"])
        count = config.num_local_experts
        return cls(torch.zeros(count, device=device), torch.zeros(count, dtype=torch.long, device=device))

    def plus(self, scores: Tensor, routed: Any) -> "RouterTally":
        """With one more layer, whose block of experts ``routed`` has given ``scores``, ``[tokens, experts]``."""
        probabilities = functional.softmax(scores, dim=-1, dtype=torch.float)
        picked = getattr(routed, "pick", pick)(probabilities, routed.top_k).flatten()
        return RouterTally(
            self.router_probabilities + probabilities.mean(dim=0),
            self.router_picks + picked.bincount(minlength=scores.shape[-1]),
        )

    def loss(self, config: Any) -> Tensor:
        """The loss of all layers, times its coefficient."""
        shares = self.router_picks * (config.num_experts_per_tok / self.router_picks.sum())
        probabilities = self.router_probabilities / config.num_hidden_layers
        weighted: Tensor = config.num_local_experts * (shares * probabilities).sum()
        return config.router_aux_loss_coef * weighted


def received(probabilities: Tensor) -> Tensor:
    """Those of earlier stages, which a model in mixed precision gets rounded; their gradient goes back."""
    return probabilities.float()
