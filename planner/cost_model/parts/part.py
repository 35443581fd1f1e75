"""What a part of a model says of itself: weights, products, what it keeps for backward, what its kernels move."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from planner.specs import ModelSpec, PartsSpec

Divided = Literal["outer", "inner", "neither"]
"""The side of a product that 1D tensor parallelism divides: of its output, or of its input; or it copies the whole."""


class Product(NamedTuple):
    """A product of hidden states with a weight matrix, ``inner`` by ``stacked * width``."""

    name: str
    inner: int
    width: int
    divided: Divided
    bias: bool = False
    stacked: int = 1
    """Matrices of that width that are one product."""

    @property
    def outer(self) -> int:
        """Width of the output."""
        return self.stacked * self.width

    @property
    def tensors(self) -> tuple[int, ...]:
        """Parameters of the matrix and of its bias."""
        return (self.inner * self.outer, *([self.outer] if self.bias else []))


class Elements(NamedTuple):
    """Elements per token: of hidden states that 1D leaves whole, and of those that it divides."""

    whole: float = 0.0
    split: float = 0.0

    def plus(self, other: "Elements") -> "Elements":
        """The sum."""
        return Elements(self.whole + other.whole, self.split + other.split)


NOTHING = Elements()


@dataclass(frozen=True)
class Routed:
    """Experts of a layer, of which a token passes a few. Elements are per token and expert of it."""

    count: int
    top_k: int
    products: tuple[Product, ...]
    """Of one expert."""
    kept: float
    """For backward, of what is as wide as an expert."""
    forward: float
    """Moved by its element-wise kernels."""
    backward: float
    working: float
    """Gradients at the peak of its backward."""

    @property
    def parameters(self) -> int:
        """Of one expert."""
        return sum(size for product in self.products for size in product.tensors)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of a block, as the stack makes it."""

    products: tuple[Product, ...] = ()
    vectors: tuple[int, ...] = ()
    """Parameters of its other tensors, which 1D copies."""
    kept: Elements = NOTHING
    """Kept of a layer for backward."""
    forward: Elements = NOTHING
    """Moved by its element-wise kernels."""
    backward: Elements = NOTHING
    """Moved by them in backward."""
    working: Elements = NOTHING
    """Gradients at the peak of its backward."""
    remade: Elements = NOTHING
    """Of what it keeps, what no product has to be run again for: it may be made again in backward."""
    routed: Routed | None = None
    """Experts of which a token passes some."""

    @property
    def tensors(self) -> tuple[int, ...]:
        """Parameters of each of its tensors, those of every expert among them."""
        own = (*self.vectors, *(size for product in self.products for size in product.tensors))
        if self.routed is None:
            return own
        expert = tuple(size for product in self.routed.products for size in product.tensors)
        return own + expert * self.routed.count


class Made(NamedTuple):
    """What parts are made from."""

    model: ModelSpec
    library: PartsSpec
    full: bool = False
    """Whether in fp32."""


def gradient_sums(made: Made, inputs: tuple[Product, ...]) -> float:
    """Moved in backward by adding up the gradients of the input that these products share."""
    return made.library.summed_gradients * (len(inputs) - 1) * made.model.hidden_size
