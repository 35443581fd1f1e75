"""What gptplan does against silent errors of Colossal-AI, each with a switch that lets the error happen.

The switches are for `gptplan verify --without`, which shows that each error would be found.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from colossalai.booster.plugin.hybrid_parallel_plugin import HybridParallelModule
from colossalai.pipeline.weight_grad_store import WeightGradStore
from colossalai.shardformer.modeling.llama import get_llama_flash_attention_forward
from colossalai.shardformer.modeling.mixtral import EPMixtralSparseMoeBlock
from colossalai.shardformer.policies.llama import LlamaForCausalLMPolicy
from colossalai.shardformer.policies.mistral import MistralForCausalLMPolicy
from colossalai.shardformer.policies.qwen2 import Qwen2ForCausalLMPolicy
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from planner.handover.verification import Workaround
from runtime.engines import plugins, zero_bubble
from runtime.patches import rotary, router_loss, weight_gradients
from runtime.patches.experts import MixtralShardPolicy
from runtime.states.families import ATTENTION


def _use_default_attention() -> None:
    # Transformers' default takes the padding mask that Colossal-AI always makes of GPT-2 for all there is to mask.
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_attention_forward)
    own = rotary.causal_attention

    def library_attention(config: Any) -> Any:
        if not config.enable_sequence_parallelism:
            return own(config)
        mode, group = config.sequence_parallelism_mode, config.sequence_parallel_process_group
        return get_llama_flash_attention_forward(config, mode, config.sequence_parallel_size, group)

    rotary.causal_attention = library_attention


def _leave_sequence_biases() -> None:
    import runtime.patches.policy

    runtime.patches.policy.mark_partial_biases = lambda model: None


def _use_policy_of_family() -> None:
    kinds = {"llama": LlamaForCausalLMPolicy, "mistral": MistralForCausalLMPolicy, "qwen2": Qwen2ForCausalLMPolicy}
    rotary.policy_of = lambda family: type("LibraryPolicy", (rotary.Corrections, kinds[family]), {})()


def _leave_depth() -> None:
    from runtime.engines import grid
    from runtime.grid import weights
    from runtime.grid.mesh import Axes, Grid

    summed = weights.copy_axes

    def without_depth(name: str, grid: Grid) -> Axes:
        return tuple(axis for axis in summed(name, grid) if axis != "depth")

    weights.copy_axes = grid.copy_axes = without_depth  # type: ignore[attr-defined]


def _use_block_of_library() -> None:
    MixtralShardPolicy.block_type = EPMixtralSparseMoeBlock


def _average_as_library() -> None:
    plugins.average_copies = HybridParallelModule.sync_dp_grads


def _send_no_router_gradients() -> None:
    router_loss.received = lambda probabilities: probabilities.detach().float()


def _keep_first_micro_batch() -> None:
    # Under autograd, as the library runs it, a gradient would be no leaf.
    weight_gradients.add_products = torch.no_grad()(WeightGradStore.pop)


def _begin_unscaled() -> None:
    zero_bubble.begin_backward = lambda optimizer, loss: optimizer.backward_by_grad([loss], [None])


_SWITCHES: dict[Workaround, Callable[[], None]] = {
    "causal-attention": _use_default_attention,
    "sequence-bias-sum": _leave_sequence_biases,
    "depth-sum": _leave_depth,
    "llama-policy": _use_policy_of_family,
    "expert-gradients": _use_block_of_library,
    "expert-average": _average_as_library,
    "router-gradients": _send_no_router_gradients,
    "weight-gradients": _keep_first_micro_batch,
    "zero-bubble-scale": _begin_unscaled,
}


def switch_off(names: Iterable[Workaround]) -> None:
    """Let the errors of ``names`` happen in this process from now on."""
    for name in names:
        _SWITCHES[name]()
