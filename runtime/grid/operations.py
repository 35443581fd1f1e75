"""The sharded products of each grid mode, made of Colossal-AI's legacy operations.

The operations are used without their layer classes: those draw their weights from CUDA's random
state, and keep biases and norms in copies of which all but one have no gradient.
"""

from typing import Any, Protocol

from colossalai.legacy.context.parallel_mode import ParallelMode
from colossalai.legacy.nn.layer.parallel_2d._operation import Matmul_AB_2D, Matmul_ABT_2D, reduce_scatter_tensor_2d
from colossalai.legacy.nn.layer.parallel_2p5d._operation import (
    Matmul_AB_2p5D,
    Matmul_ABT_2p5D,
    reduce_scatter_tensor_2p5d,
)
from colossalai.legacy.nn.layer.parallel_3d._operation import (
    all_gather_tensor_3d,
    linear_3d,
    reduce_scatter_tensor_3d,
    vocab_parallel_classifier_3d,
)
from colossalai.legacy.nn.layer.parallel_3d._utils import register_async_grad_hook
from torch import Tensor, nn

from runtime.grid.mesh import Axes, Mesh


class Operations(Protocol):
    """What a block needs of a grid mode. Activations are ``[batch, sequence, hidden]``, all sharded."""

    rows_before_embedding: Axes
    """Axes that divide the sequences before the embedding; :meth:`scatter_rows` divides the rest."""

    def prepare(self, weight: nn.Parameter) -> None:
        """Must be called once on a weight that :meth:`linear` or :meth:`head` will use."""

    def linear(self, states: Tensor, weight: Tensor, *, inner: bool) -> Tensor:
        """``states @ weight``; ``inner`` where the states are split like :attr:`Grid.inner`."""

    def head(self, states: Tensor, weight: Tensor) -> Tensor:
        """``states @ weight.T``: the logits, vocabulary split over :attr:`Grid.inner`'s hidden axis."""

    def gather_vocabulary(self, weight: Tensor) -> Tensor:
        """The rows of the embedding that this rank looks up."""

    def scatter_rows(self, states: Tensor) -> Tensor:
        """Sum the embeddings of all parts of the vocabulary and keep this rank's sequences."""


class WholeOperations:
    """Plain products, where an edge is one rank: 2.5D with as much depth as ranks divides only the batch.

    The library's backward of 2D, 2.5D and 3D waits for messages that such a grid never sends.
    """

    def __init__(self, rows_before_embedding: Axes) -> None:
        """The axes that divide the batch."""
        self.rows_before_embedding = rows_before_embedding

    def prepare(self, weight: nn.Parameter) -> None:
        """Nothing: gradients come out of autograd."""

    def linear(self, states: Tensor, weight: Tensor, *, inner: bool) -> Tensor:
        """The whole product."""
        return states @ weight

    def head(self, states: Tensor, weight: Tensor) -> Tensor:
        """The whole product."""
        return states @ weight.T

    def gather_vocabulary(self, weight: Tensor) -> Tensor:
        """The rank's own rows, which are all."""
        return weight

    def scatter_rows(self, states: Tensor) -> Tensor:
        """Nothing to sum."""
        return states


class SummaOperations:
    """SUMMA on a square of ranks (2D), or on several squares that divide the batch (2.5D).

    The library does nothing over the depth of 2.5D: it gives every square the whole batch and other
    weights, and never compares them. Here the squares start from the same weights, divide the
    batch, and the engine sums their gradients.
    """

    def __init__(self, mesh: Mesh) -> None:
        """Find this rank's place on the grid."""
        at, is_deep = mesh.coordinates, mesh.grid.mode == "2.5d"
        self._edge = mesh.grid.edge
        self.rows_before_embedding: Axes = ("depth",) if is_deep else ()
        self._multiply: Any = Matmul_AB_2p5D if is_deep else Matmul_AB_2D
        self._multiply_transposed: Any = Matmul_ABT_2p5D if is_deep else Matmul_ABT_2D
        self._reduce_scatter: Any = reduce_scatter_tensor_2p5d if is_deep else reduce_scatter_tensor_2d
        row = ParallelMode.PARALLEL_2P5D_ROW if is_deep else ParallelMode.PARALLEL_2D_ROW
        self._column = ParallelMode.PARALLEL_2P5D_COL if is_deep else ParallelMode.PARALLEL_2D_COL
        self._place = (
            at["row"],
            at["col"],
            *([at["depth"]] if is_deep else []),
            row,
            self._column,
            at["data"],
            at["stage"],
            mesh.sizes["stage"],
            mesh.size(mesh.tensor_axes),
        )

    def prepare(self, weight: nn.Parameter) -> None:
        """Nothing: gradients come out of autograd."""

    def linear(self, states: Tensor, weight: Tensor, *, inner: bool) -> Tensor:
        """One SUMMA product; both splits are the same here."""
        shape = (*states.shape[:-1], weight.shape[1])
        product: Tensor = self._multiply.apply(states, weight, self._edge, shape, *self._place)
        return product

    def head(self, states: Tensor, weight: Tensor) -> Tensor:
        """One SUMMA product with the transposed weight."""
        shape = (*states.shape[:-1], weight.shape[0])
        product: Tensor = self._multiply_transposed.apply(states, weight, self._edge, shape, *self._place)
        return product

    def gather_vocabulary(self, weight: Tensor) -> Tensor:
        """The rank's own rows."""
        return weight

    def scatter_rows(self, states: Tensor) -> Tensor:
        """Over the rows of the square."""
        part: Tensor = self._reduce_scatter(states, 0, self._column)
        return part


class CubeOperations:
    """Products on a cube: inputs and weights are gathered, outputs reduced and scattered.

    Embedding and head are the vocabulary-parallel ones whatever the vocabulary. The other head,
    which the library takes for up to 2048 tokens, loses gradients outside of the cube's diagonal:
    it fails when the head has its own weight and trains wrongly when the weight is tied.
    """

    rows_before_embedding: Axes = ("weight",)
    _INPUT, _WEIGHT, _OUTPUT = (
        ParallelMode.PARALLEL_3D_INPUT,
        ParallelMode.PARALLEL_3D_WEIGHT,
        ParallelMode.PARALLEL_3D_OUTPUT,
    )

    def prepare(self, weight: nn.Parameter) -> None:
        """Take up the gradient that backward reduces behind autograd's back."""
        register_async_grad_hook(weight)

    def linear(self, states: Tensor, weight: Tensor, *, inner: bool) -> Tensor:
        """One product; it swaps the axes of input and output."""
        first, last = (self._OUTPUT, self._INPUT) if inner else (self._INPUT, self._OUTPUT)
        product: Tensor = linear_3d(states, weight, first, self._WEIGHT, last)
        return product

    def head(self, states: Tensor, weight: Tensor) -> Tensor:
        """One product with the transposed weight, which swaps the axes too."""
        logits: Tensor = vocab_parallel_classifier_3d(states, weight, None, self._INPUT, self._WEIGHT, self._OUTPUT)
        return logits

    def gather_vocabulary(self, weight: Tensor) -> Tensor:
        """The rows of all ranks along the weight axis."""
        rows: Tensor = all_gather_tensor_3d(weight, 0, self._WEIGHT)
        return rows

    def scatter_rows(self, states: Tensor) -> Tensor:
        """Over the input axis."""
        part: Tensor = reduce_scatter_tensor_3d(states, 0, self._INPUT)
        return part


def operations(mesh: Mesh) -> Operations:
    """The operations of the mesh's grid."""
    if mesh.grid.edge == 1:
        return WholeOperations(mesh.grid.outer.batch)
    return CubeOperations() if mesh.grid.mode == "3d" else SummaOperations(mesh)
