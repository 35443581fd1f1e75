"""Weight gradients that a schedule puts off: what they hold until then, and which layouts put them off."""

import numpy as np

from planner.cost_model.expert_shares import expert_mesh, routed_of, sent_tokens
from planner.cost_model.imbalance import JUDGED, fullest_tokens
from planner.cost_model.parts import block
from planner.cost_model.shares import rank_tokens, shares
from planner.cost_model.sources import formula
from planner.layouts.problem import Problem
from planner.layouts.stages import Floats, Integers, StageColumns, once_per_places
from planner.specs import ELEMENT_BYTES


@formula("qi2023", "colossalai0.5.0")
@once_per_places
def deferred_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """What the weight gradients of one layer hold of one micro batch from its backward on until they are computed.

    The input and the output gradient of each product (weight_grad_store.py:12-14). Products of one part share their
    input, but each gathers its own where sequence parallelism divides it; what it scatters is gathered as well.
    Units: bytes.
    """
    columns = stages.layouts
    in_slices, split = columns.sequence_parallel == 1, shares(columns).split_hidden
    hidden = float(problem.model.hidden_size)
    elements: Floats = np.zeros(len(stages))
    for part in block(problem).parts:
        outer = [product for product in part.products if product.divided != "inner"]
        inner = [product for product in part.products if product.divided == "inner"]
        elements = elements + hidden * np.where(in_slices, len(outer), min(len(outer), 1))
        elements = elements + split * float(sum(product.inner for product in inner))
    inputs = rank_tokens(problem, stages) * elements * ELEMENT_BYTES[problem.precision]
    return inputs + output_gradient_bytes(problem, stages)


@formula("qi2023", "colossalai0.5.0")
@once_per_places
def output_gradient_bytes(problem: Problem, stages: StageColumns) -> Floats:
    """Of these the output gradients, which backward would give up one after the other. Units: bytes."""
    split, products = shares(stages.layouts).split_hidden, block(problem).products
    whole = float(sum(product.outer for product in products if product.divided == "inner"))
    divided = float(sum(product.outer for product in products if product.divided != "inner"))
    return rank_tokens(problem, stages) * (whole + split * divided) * ELEMENT_BYTES[problem.precision]


@formula("qi2023", "colossalai0.5.0")
def routed_deferred_bytes(problem: Problem, stages: StageColumns, layers: Integers) -> Floats:
    """The same of the experts of so many layers, on the rank with most tokens. Units: bytes."""
    routed, mesh = routed_of(problem), expert_mesh(problem, stages.layouts)
    if routed is None:
        return np.zeros(len(stages))
    outer = float(sum(product.outer for product in routed.products if product.divided != "inner"))
    inner = [product for product in routed.products if product.divided == "inner"]
    split = outer + float(sum(product.inner for product in inner))
    whole = problem.model.hidden_size + float(sum(product.outer for product in inner))
    each = (whole + split / mesh.parts) * ELEMENT_BYTES[problem.precision]
    return layers * each * fullest_tokens(problem, stages.layouts, sent_tokens(problem, stages), JUDGED, layers)
