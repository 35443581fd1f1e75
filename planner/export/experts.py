"""Experts and latent attention as arguments of Megatron-LM."""

from collections.abc import Iterator

from planner.export.arguments import Argument, refused
from planner.plans.plan import Plan
from planner.specs import ExpertsSpec, LatentSpec, ModelSpec


def expert_arguments(plan: Plan) -> Iterator[Argument]:
    """The experts of a plan's model and the ranks that divide them; nothing where it has none.

    Raises:
        PlanError: Megatron-LM has no arguments for them.
    """
    model, experts = plan.problem.model, plan.problem.model.experts
    if experts is None:
        return
    yield "--num-experts", str(experts.count)
    yield "--expert-model-parallel-size", str(plan.layout.expert_parallel)
    yield "--expert-tensor-parallel-size", "1"
    yield "--moe-router-topk", str(experts.top_k)
    yield "--moe-ffn-hidden-size", str(experts.ffn_hidden_size)
    yield ("--moe-grouped-gemm",)
    yield "--moe-token-dispatcher-type", "alltoall"
    if experts.shared:
        yield "--moe-shared-expert-intermediate-size", str(experts.shared * experts.ffn_hidden_size)
    if experts.first_dense_layers:
        dense = experts.first_dense_layers
        yield "--moe-layer-freq", f"([0]*{dense}+[1]*{model.num_layers - dense})"
    yield from _router(experts)


def _router(experts: ExpertsSpec) -> Iterator[Argument]:
    balanced = experts.balance_loss > 0
    yield "--moe-router-load-balancing-type", "aux_loss" if balanced else "none"
    if balanced:
        yield "--moe-aux-loss-coeff", str(experts.balance_loss)
    if experts.router == "sigmoid":
        yield "--moe-router-score-function", "sigmoid"
    elif not experts.normalised:
        yield ("--moe-router-pre-softmax",)
    if experts.router == "sigmoid" and not experts.normalised:
        raise refused(
            "the router's sigmoid weights are not normalised",
            "Megatron-LM divides them by their sum",
            "solve for a model with experts.normalised = true",
        )
    if experts.selection_bias:
        yield ("--moe-router-enable-expert-bias",)
    if experts.weight_scale != 1:
        yield "--moe-router-topk-scaling-factor", str(experts.weight_scale)
    if experts.groups > 1:
        yield "--moe-router-num-groups", str(experts.groups)
        yield "--moe-router-group-topk", str(experts.top_groups)


def latent_arguments(model: ModelSpec, latent: LatentSpec) -> Iterator[Argument]:
    """Latent attention, whose rotations Megatron-LM stretches by YaRN.

    Raises:
        PlanError: the model stretches them otherwise.
    """
    own = model.positions
    if own.scaling not in ("none", "yarn"):
        raise refused(
            f"the model stretches its rotary positions by {own.scaling}",
            "Megatron-LM has YaRN for latent attention",
            "solve for a model without it",
        )
    yield ("--multi-latent-attention",)
    yield "--q-lora-rank", str(latent.query_rank)
    yield "--kv-lora-rank", str(latent.kv_rank)
    yield "--qk-head-dim", str(model.head_size - latent.rotary_size)
    yield "--qk-pos-emb-head-dim", str(latent.rotary_size)
    yield "--v-head-dim", str(latent.value_size)
    yield "--position-embedding-type", "rope"
    yield "--rotary-base", f"{own.base:.0f}"
    yield "--rotary-scaling-factor", f"{own.factor:g}"
