"""How evenly routers load the experts of a model, for the metrics of a run."""

from typing import Any

import torch
import torch.distributed as dist

from runtime.engines.engine import Engine
from runtime.patches.experts import routers


def expert_load(engine: Engine) -> dict[str, Any]:
    """Of the layer whose fullest expert is fullest, since this was last asked; every rank has to ask.

    ``fullest_expert`` is the load of that expert over the mean; ``expert_load`` the share of all picks that each expert
    got, which a model spec takes as `experts.load`. Nothing of a model without experts.
    """
    experts = engine.model_spec.experts
    if experts is None:
        return {}
    counts = torch.zeros(engine.model_spec.num_layers, experts.count, dtype=torch.double, device=engine.device)
    for name, block in routers(engine.model.unwrap()):
        if getattr(block, "counted", None) is not None:  # those of other stages count nothing
            # A block that is recomputed counts twice, each of its experts alike.
            counts[int(name.split(".")[-2])] += block.counted
            block.counted = None
    dist.all_reduce(counts)
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    own = shares[shares.max(dim=1).values.argmax()].tolist()
    return {"fullest_expert": max(own) * experts.count, "expert_load": own}
