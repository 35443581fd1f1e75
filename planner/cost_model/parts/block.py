"""A block as the sum of its parts, in the order in which a token passes them."""

from collections.abc import Callable
from functools import lru_cache, reduce
from typing import NamedTuple

import msgspec

from planner.cost_model.parts.attention import attention
from planner.cost_model.parts.experts import experts
from planner.cost_model.parts.latent import latent_attention
from planner.cost_model.parts.mlp import mlp
from planner.cost_model.parts.norm import norm, norm_kept
from planner.cost_model.parts.part import Divided, Elements, Made, Part, Product, Routed
from planner.layouts.problem import Problem
from planner.specs import AttentionSpec, MlpSpec, ModelSpec, PartsSpec

Passed = tuple[float, float]
"""Of forward and of backward."""


def parts_of(model: ModelSpec) -> tuple[Callable[[Made], Part], ...]:
    """What makes the parts of a block, of one with experts where the model has them."""
    return (
        norm,
        attention if model.attention.latent is None else latent_attention,
        norm,
        mlp if model.experts is None else experts,
    )


class Block(NamedTuple):
    """One block."""

    parts: tuple[Part, ...]
    kernels: float
    """Of forward."""
    shared_inputs: bool = False
    """Whether products of one part share the gathered input."""

    @property
    def gathered_inputs(self) -> int:
        """Inputs that sequence parallelism gathers: of every product whose output is divided, or of every part."""
        if not self.shared_inputs:
            return self.divided("outer")
        return sum(any(product.divided == "outer" for product in part.products) for part in self.parts)

    @property
    def products(self) -> tuple[Product, ...]:
        """All products with weights."""
        return tuple(product for part in self.parts for product in part.products)

    @property
    def tensors(self) -> tuple[int, ...]:
        """Parameters of each tensor, in order."""
        return tuple(size for part in self.parts for size in part.tensors)

    @property
    def routed(self) -> Routed | None:
        """The experts of which a token passes some."""
        return next((part.routed for part in self.parts if part.routed is not None), None)

    @property
    def matrices(self) -> int:
        """Parameters of the weight matrices that 1D divides, without those of experts."""
        return sum(product.inner * product.outer for product in self.products if product.divided != "neither")

    @property
    def copied(self) -> int:
        """Parameters of the weight matrices that 1D copies."""
        return sum(product.inner * product.outer for product in self.products if product.divided == "neither")

    def divided(self, side: Divided) -> int:
        """How many products have that side divided."""
        return sum(product.divided == side for product in self.products)

    def biases(self, side: Divided) -> int:
        """Parameters of the biases of those products."""
        return sum(product.outer for product in self.products if product.bias and product.divided == side)

    @property
    def vectors(self) -> int:
        """Parameters of the tensors of norms."""
        return sum(size for part in self.parts for size in part.vectors)

    def total(self, name: str) -> Elements:
        """The sum over the parts of what they keep or move."""
        return reduce(Elements.plus, (getattr(part, name) for part in self.parts), Elements())

    @property
    def working(self) -> Elements:
        """The most that one part takes in backward."""
        return Elements(*(max(getattr(part.working, name) for part in self.parts) for name in Elements._fields))


@lru_cache(maxsize=64)
def block_of(model: ModelSpec, library: PartsSpec | None = None, *, full: bool = False) -> Block:
    """The block of a model; its weights are the same under every library."""
    made = Made(model, library or PartsSpec(), full)
    parts = tuple(part(made) for part in parts_of(model))
    products = sum(len(part.products) for part in parts)
    return Block(parts, products + made.library.kernels, made.library.shared_inputs)


def block(problem: Problem) -> Block:
    """The block of a problem's model as its stack makes it; GPT-2's as all do, with one product of its input."""
    library = None if counted_whole(problem.model) else problem.stack.parts
    return block_of(problem.model, library, full=problem.precision == "fp32")


def without_experts(model: ModelSpec) -> ModelSpec:
    """The model as if all its blocks were like the first ones, which have no experts."""
    return model if model.experts is None else msgspec.structs.replace(model, experts=None)


def counted_whole(model: ModelSpec) -> bool:
    """Whether blocks are those of GPT-2, which a stack's own counts are of."""
    plain = (model.attention, model.mlp.gated, model.mlp.bias, model.norm.kind, model.positions.kind)
    return model.experts is None and plain == (AttentionSpec(), MlpSpec().gated, MlpSpec().bias, "layernorm", "learned")


def kept_elements(problem: Problem) -> Elements:
    """Kept of a block for backward, per token and hidden unit."""
    own = problem.stack.activations
    if counted_whole(problem.model):
        return Elements(own.replicated_elements, own.sharded_elements)
    return _per_unit(problem, block(problem).total("kept"))


def remade_elements(problem: Problem) -> Elements:
    """Of what is kept of a block, what may be made again without a product, per token and hidden unit."""
    return _per_unit(problem, block(problem).total("remade"))


def final_norm(problem: Problem) -> tuple[float, Passed]:
    """What the norm after the last block keeps, and moves forward and backward, per token and hidden unit.

    As a norm of the blocks; beside GPT-2's blocks its traffic is not counted.
    """
    if counted_whole(problem.model):
        return 2.0, (0.0, 0.0)
    library = problem.stack.parts
    made = Made(problem.model, library, problem.precision == "fp32")
    return norm_kept(made), library.norm_elements


def working_elements(problem: Problem) -> Elements:
    """Gradients at the peak of a block's backward, per token and hidden unit."""
    own = problem.stack.activations
    if counted_whole(problem.model):
        return Elements(own.backward_replicated_elements, own.backward_elements)
    return _per_unit(problem, block(problem).working)


def _per_unit(problem: Problem, elements: Elements) -> Elements:
    return Elements(*(count / problem.model.hidden_size for count in elements))


def moved_elements(problem: Problem) -> tuple[Elements, Elements]:
    """Moved by a block's element-wise kernels, forward and backward, per token and hidden unit."""
    traffic = problem.stack.traffic
    if not counted_whole(problem.model):
        made = block(problem)
        return _per_unit(problem, made.total("forward")), _per_unit(problem, made.total("backward"))
    forward = Elements(traffic.replicated_elements, traffic.sharded_elements)
    stated = (traffic.backward_replicated_elements, traffic.backward_sharded_elements)
    backward = (2.0 * count if own is None else own for count, own in zip(forward, stated, strict=True))
    return forward, Elements(*backward)
