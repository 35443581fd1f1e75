"""The Colossal-AI plugin that divides a model as a layout says."""

from functools import partial
from typing import Any

import torch
from colossalai.booster.plugin import GeminiPlugin, HybridParallelPlugin
from colossalai.booster.plugin.moe_hybrid_parallel_plugin import MoeHybridParallelPlugin
from colossalai.tensor.moe_tensor.api import is_moe_tensor
from torch import Tensor

from planner.layouts.layout import Layout
from planner.plans.plan import Plan
from planner.specs import ModelSpec
from runtime.engines.reducing import sum_over
from runtime.engines.zero_bubble import ZeroBubbleV
from runtime.patches import rotary
from runtime.patches.experts import MixtralShardPolicy
from runtime.patches.host_accelerator import Device
from runtime.patches.policy import ShardPolicy
from runtime.patches.quiet import without_advice

LARGEST_LEAST_CHUNK_M = 32.0
"""Colossal-AI's default of the smallest chunk, in 2^20 elements."""


def hybrid_plugin(plan: Plan, device: Device) -> HybridParallelPlugin:
    """The plugin for tensor, sequence, pipeline, expert and data parallelism and ZeRO up to stage 2."""
    if plan.layout.schedule != "zbv":
        return _plugin(plan, device)
    with without_advice():  # to recompute in a way that loses gradients
        plugin = _plugin(plan, device)
    plugin.scheduler = ZeroBubbleV(plugin.scheduler, recomputes=any(plan.layout.recompute_layers_per_stage))
    return plugin


def _plugin(plan: Plan, device: Device) -> HybridParallelPlugin:
    layout, model = plan.layout, plan.problem.model
    common: dict[str, Any] = {
        "tp_size": layout.tensor_parallel,
        "pp_size": layout.pipeline_parallel,
        "zero_stage": layout.zero_stage,
        "precision": layout.precision,
        "cpu_offload": layout.offload.optimizer == 1.0,
        "make_vocab_size_divisible_by": plan.problem.stack.vocab_multiple,
        "custom_policy": _policy(model),
        **_pipeline(layout, device),
    }
    if layout.expert_parallel > 1:
        # It takes overlap for a wish for ZeRO stage 1.
        return ExpertPlugin(ep_size=layout.expert_parallel, overlap_communication=False, **common)
    # Reduction behind backward needs a second stream.
    return HybridParallelPlugin(overlap_communication=device == "cuda", **common, **_sequence(layout))


class ExpertPlugin(MoeHybridParallelPlugin):  # type: ignore[misc]
    """The library's plugin for experts, which without ZeRO averages each gradient over the ranks that have copies.

    Its own averages those of different experts (colossalai 0.5.0: HybridParallelModule.sync_dp_grads), or leaves all
    to torch's DDP, which knows one group alone, and raises.
    """

    dp_size: int

    def configure(self, model: Any, optimizer: Any = None, *others: Any) -> Any:
        """Divide the model and wrap the optimizer."""
        replicas = self.dp_size
        if self.zero_stage == 0:
            self.dp_size = 1  # so that it leaves out DDP
        configured = super().configure(model, optimizer, *others)
        self.dp_size = replicas
        boosted = configured[0]
        boosted.sync_dp_grads = partial(average_copies, boosted)
        return configured


def average_copies(boosted: Any) -> None:
    """Average a model's gradients over data parallelism, those of experts over the ranks that have the same ones.

    They are sums over the ranks that divide experts already, divided by their number.
    """
    own: list[Tensor] = []
    shared: list[Tensor] = []
    for parameter in boosted.module.parameters():
        if parameter.grad is None and is_moe_tensor(parameter):
            # The library's own block makes none for an expert without tokens, which another rank may have.
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad is not None:
            (own if is_moe_tensor(parameter) else shared).append(parameter.grad)
    for group, gradients in ((boosted.dp_group, shared), (boosted.shard_config.moe_dp_group, own)):
        if group.size() > 1:
            sum_over(group, gradients)
            for gradient in gradients:
                gradient.div_(group.size())


def _policy(model: ModelSpec) -> Any:
    if model.family == "gpt2":
        return ShardPolicy()
    return rotary.policy_of(str(model.family)) if model.experts is None else MixtralShardPolicy()


def _sequence(layout: Layout) -> dict[str, Any]:
    degree = layout.sequence_parallel_degree
    if degree == 1 and not layout.sequence_parallel:
        return {}
    mode = rotary.ALL_TO_ALL if degree > 1 else rotary.SPLIT_GATHER
    return {"enable_sequence_parallelism": True, "sequence_parallelism_mode": mode, "sp_size": degree}


def _pipeline(layout: Layout, device: Device) -> dict[str, Any]:
    if layout.pipeline_parallel == 1:
        return {}
    common = {"pp_style": layout.schedule, "num_microbatches": layout.num_microbatches}
    if layout.schedule == "1f1b":
        return common | {"num_layers_per_stage": list(layout.layers_per_stage)}
    if layout.schedule == "zbv":
        return common | {"num_model_chunks": layout.num_model_chunks, "scheduler_nodes": []}
    # The schedule drops the handles of its last sends, and gloo loses a send whose handle is gone.
    return common | {"num_model_chunks": layout.num_model_chunks, "overlap_p2p": device == "cuda"}


def gemini_plugin(plan: Plan, **settings: Any) -> GeminiPlugin:
    """The plugin for ZeRO stage 3, which divides the weights as well; with further ``settings`` of its own."""
    layout, model = plan.layout, plan.problem.model
    settings = _streams(layout) | settings
    return GeminiPlugin(
        precision=layout.precision,
        placement_policy="static",
        shard_param_frac=1.0,
        offload_optim_frac=layout.offload.optimizer,
        offload_param_frac=layout.offload.parameters,
        enable_gradient_accumulation=layout.num_microbatches > 1,
        hidden_dim=model.hidden_size,
        min_chunk_size_m=_chunk_size_m(model),
        search_range_m=_chunk_size_m(model),
        **settings,
    )


def _streams(layout: Layout) -> dict[str, Any]:
    """One stream where one rank has nothing to reduce, and nothing moves to the host meanwhile.

    On a second stream backward would allocate every shard anew beside the blocks that forward left on the first one,
    as PyTorch's allocator gives no block of one stream to another: more than a nearly full card has.
    """
    alone = layout.data_parallel == 1 and layout.offload.tier == "none"
    return {"enable_async_reduce": False, "pin_memory": True} if alone else {}


def _chunk_size_m(model: ModelSpec) -> float:
    """Least elements of a chunk, in 2^20: a layer, and no more than the library's own 32.

    Chunks are gathered whole; a model smaller than one chunk would not be divided at all, and the
    library accumulates wrong gradients then.
    """
    attention = 2 * (model.query_size + model.kv_size)
    feed_forward = (3 if model.mlp.gated else 2) * model.ffn_hidden_size
    layer = model.hidden_size * (attention + feed_forward)
    return min(LARGEST_LEAST_CHUNK_M, layer / 2**20)
