"""How the tensor that a rank holds lies in a whole parameter, whatever divided it.

A part is a few boxes: ranges of the rank's own tensor, each with the range of the whole parameter that it is. Rows of
the own tensor in no box pad the vocabulary. Nothing here knows a kind of parallelism or a name.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]
Ranges = tuple[tuple[int, int], ...]
"""First element and the one after the last, of each dimension."""


class Box(NamedTuple):
    """A block of the rank's own tensor, and the equally large one of the whole parameter."""

    own: Ranges
    whole: Ranges


@dataclass(frozen=True)
class Part:
    """The tensor of a rank as blocks of a whole parameter."""

    shape: Shape
    """Of the rank's own tensor."""
    whole: Shape
    """Of the parameter, without any padding."""
    boxes: tuple[Box, ...]

    @property
    def num_elements(self) -> int:
        """Of the rank's own tensor, padding included."""
        return math.prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether the rank's tensor is the parameter, in its order and without padding."""
        return self.shape == self.whole and len(self.boxes) == 1

    @property
    def num_filled(self) -> int:
        """Elements of the whole parameter that are in it."""
        return sum(math.prod(stop - start for start, stop in box.whole) for box in self.boxes)

    def put(self, own: Tensor, whole: Tensor) -> None:
        """Copy the rank's tensor, flat, to where it belongs in ``whole``."""
        own = own.view(self.shape)
        for box in self.boxes:
            whole[_slices(box.whole)] = own[_slices(box.own)]

    def cut(self, whole: Any, start: int = 0, stop: int | None = None) -> Tensor:
        """Elements ``start`` to ``stop`` of the rank's tensor, flat, with zeros as padding.

        ``whole`` is a tensor, or a slice of a file, of which no more rows are read than needed.
        """
        stop = self.num_elements if stop is None else stop
        width = math.prod(self.shape[1:])
        first, last = start // width, -(-stop // width)
        rows = torch.zeros((last - first, *self.shape[1:]))
        for box in self.boxes:
            (own_start, own_stop), (whole_start, _) = box.own[0], box.whole[0]
            low, high = max(own_start, first), min(own_stop, last)
            if low < high:
                wanted = ((whole_start + low - own_start, whole_start + high - own_start), *box.whole[1:])
                rows[_slices(((low - first, high - first), *box.own[1:]))] = whole[_slices(wanted)]
        return rows.flatten()[start - first * width : stop - first * width]


def _slices(ranges: Ranges) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in ranges)


def whole_part(shape: Sequence[int]) -> Part:
    """A parameter that a rank has whole."""
    whole = tuple(shape)
    ranges = tuple((0, length) for length in whole)
    return Part(whole, whole, (Box(ranges, ranges),))


Block = tuple[int, int, int]
"""A range of one axis: start in the rank's own tensor, start in the whole parameter, length."""


def blocked_part(shape: Sequence[int], whole: Sequence[int], axes: Sequence[Sequence[Block]]) -> Part:
    """A parameter of which a rank has every combination of the blocks of each axis."""
    boxes = [
        Box(
            tuple((own, own + length) for own, _, length in blocks),
            tuple((there, there + length) for _, there, length in blocks),
        )
        for blocks in itertools.product(*axes)
        if all(length > 0 for *_, length in blocks)
    ]
    return Part(tuple(shape), tuple(whole), tuple(boxes))


def sliced_part(shape: Sequence[int], whole: Sequence[int], axis: int, blocks: Sequence[Block]) -> Part:
    """A parameter divided along one axis, as blocks of it."""
    axes: list[Sequence[Block]] = [[(0, 0, size)] for size in whole]
    axes[axis] = blocks
    return blocked_part(shape, whole, axes)


def vocabulary_part(shape: Sequence[int], whole: Sequence[int], rank: int) -> Part:
    """Rows of a vocabulary, of which every rank has equally many and the last ones may have padding or nothing else."""
    start = rank * shape[0]
    return sliced_part(shape, whole, 0, [(0, start, min(shape[0], whole[0] - start))])


def tensor_part(
    shape: Sequence[int], whole: Sequence[int], *, rank: int, degree: int, fused: Sequence[int] = ()
) -> Part | None:
    """The part of rank ``rank`` of ``degree`` of a parameter divided along the axis on which the shapes differ.

    ``fused`` are lengths along that axis that are divided one by one, as those of queries, keys and values.
    ``None``: no such division gives this shape.
    """
    differing = [axis for axis, (own, all_) in enumerate(zip(shape, whole, strict=True)) if own != all_]
    if not differing:
        return whole_part(whole)
    axis, *others = differing
    lengths = list(fused) or [whole[axis]]
    if others or shape[axis] * degree != whole[axis] or sum(lengths) != whole[axis]:
        return None
    blocks, own_start, whole_start = [], 0, 0
    for length in lengths:
        size = length // degree
        blocks.append((own_start, whole_start + rank * size, size))
        own_start, whole_start = own_start + size, whole_start + length
    return sliced_part(shape, whole, axis, blocks)
