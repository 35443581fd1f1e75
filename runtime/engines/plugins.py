"""The Colossal-AI plugin that divides a model as a layout says."""

from typing import Any

from colossalai.booster.plugin import GeminiPlugin, HybridParallelPlugin

from planner.layouts.layout import Layout
from planner.plans.plan import Plan
from planner.specs import ModelSpec
from runtime.patches import rotary
from runtime.patches.host_accelerator import Device
from runtime.patches.policy import ShardPolicy

LARGEST_LEAST_CHUNK_M = 32.0
"""Colossal-AI's default of the smallest chunk, in 2^20 elements."""


def hybrid_plugin(plan: Plan, device: Device) -> HybridParallelPlugin:
    """The plugin for tensor, sequence, pipeline and data parallelism and ZeRO up to stage 2."""
    layout = plan.layout
    return HybridParallelPlugin(
        tp_size=layout.tensor_parallel,
        pp_size=layout.pipeline_parallel,
        zero_stage=layout.zero_stage,
        precision=layout.precision,
        cpu_offload=layout.offload.optimizer == 1.0,
        make_vocab_size_divisible_by=plan.problem.stack.vocab_multiple,
        # Reduction behind backward needs a second stream.
        overlap_communication=device == "cuda",
        custom_policy=_policy(plan.problem.model),
        **_sequence(layout),
        **_pipeline(layout, device),
    )


def _policy(model: ModelSpec) -> Any:
    return ShardPolicy() if model.family == "gpt2" else rotary.policy_of(str(model.family))


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
