"""Time of a layer's experts on a device: products of the fullest rank, and sorting tokens by expert."""

import numpy as np

from planner.cost_model.expert_shares import expert_mesh, routed_of, worked_tokens
from planner.cost_model.parts.part import Product
from planner.cost_model.products import (
    Passes,
    Products,
    Side,
    alignment_share,
    matrix_seconds,
    traffic_seconds,
    with_gradients,
)
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, StageColumns, once_per_places
from planner.specs import ELEMENT_BYTES


@formula("nvidia-matmul", "colossalai0.5.0", "megatron-core")
@once_per_places
def expert_products(problem: Problem, stages: StageColumns) -> Passes:
    """Products of the experts of the fullest rank of each group for one micro batch. Units: s.

    Its tokens are alike among its own experts. One kernel runs the products of all of them, or there is one for each,
    or even one for each of the ranks that send tokens to it; each takes what its tiles take, or what its operands and
    results take through the memory where that is longer.
    """
    each = _products(problem, stages)
    if not each:
        return Passes(np.zeros(len(stages)), np.zeros(len(stages)))
    forward, backward = (np.sum(passes, axis=0) for passes in zip(*(one.passes for one in each), strict=True))
    return Passes(forward, backward)


@formula("qi2023")
@once_per_places
def expert_weight_gradient_seconds(problem: Problem, stages: StageColumns) -> Floats:
    """Of backward of one layer's experts, what a schedule can put off: the gradients of their weights. Units: s."""
    return np.sum([np.zeros(len(stages)), *(one.of_weight for one in _products(problem, stages))], axis=0)


def _products(problem: Problem, stages: StageColumns) -> list[Products]:
    routed, mesh = routed_of(problem), expert_mesh(problem, stages.layouts)
    if routed is None:
        return []
    batches = _batches(problem, stages)
    rows, parts = worked_tokens(problem, stages) / batches, mesh.parts.astype(np.float64)
    return [_one_product(problem, product, rows, batches, parts) for product in routed.products]


def _batches(problem: Problem, stages: StageColumns) -> Floats:
    """Batches of tokens of the experts of a rank: one of each, and of each sender where the stack keeps those apart."""
    routed, group = routed_of(problem), stages.layouts.expert_parallel
    held = (0 if routed is None else routed.count) / group
    return held * np.where((held > 1) & problem.stack.experts.by_sender, group, 1)


def _one_product(problem: Problem, product: Product, rows: Floats, batches: Floats, parts: Floats) -> Products:
    own, element = problem.stack.experts, float(ELEMENT_BYTES[problem.precision])
    inner = product.inner / np.where(product.divided == "inner", parts, 1.0)
    outer = product.outer / np.where(product.divided == "outer", parts, 1.0)
    share = alignment_share(problem, inner) * alignment_share(problem, outer)
    reached = share * problem.stack.traffic.product_share * own.product_share
    moved = traffic_seconds(problem, batches * element * (rows * inner + inner * outer + rows * outer))
    times: Floats | float = 1.0 if own.grouped else batches
    together: Floats | float = batches if own.grouped else 1.0

    def one(rows: Side, columns: Side, depth: Side) -> Floats:
        taken = times * matrix_seconds(problem, rows, columns, depth, together) / reached
        return np.asarray(np.maximum(taken, moved))

    return with_gradients(one, rows, inner, outer)


@formula("colossalai0.5.0", "megatron-core")
@once_per_places
def dispatch_seconds(problem: Problem, stages: StageColumns) -> Passes:
    """Traffic of experts' activations and of sorting tokens, and what the host waits for, of one layer. Units: s.

    The host learns from the device how many tokens come before it can launch what follows; in backward it knows.
    """
    routed, mesh, own = routed_of(problem), expert_mesh(problem, stages.layouts), problem.stack.experts
    if routed is None:
        return Passes(np.zeros(len(stages)), np.zeros(len(stages)))
    tokens, element = worked_tokens(problem, stages), float(ELEMENT_BYTES[problem.precision])
    moved = [
        traffic_seconds(problem, tokens * element * (sorting * problem.model.hidden_size + inside / mesh.parts))
        for sorting, inside in zip(own.dispatch_elements, (routed.forward, routed.backward), strict=True)
    ]
    return Passes(moved[0] + own.syncs * float(own.sync_s), moved[1])


@formula("colossalai0.5.0", "megatron-core")
@once_per_places
def expert_kernels(problem: Problem, stages: StageColumns) -> Floats:
    """Kernels of a layer's experts in forward: router and sorting, and products once, or once for each batch."""
    routed, own = routed_of(problem), problem.stack.experts
    if routed is None:
        return np.zeros(len(stages))
    each = own.expert_kernels + (0.0 if own.grouped else len(routed.products))
    return own.kernels + (len(routed.products) if own.grouped else 0.0) + each * _batches(problem, stages)
