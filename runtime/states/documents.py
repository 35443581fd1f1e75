"""Packed documents that do not attend to each other.

Attention runs over stacks of documents of about the same length, each padded at its end: what is causal does not see
what comes after it, so the padding needs no mask, no kernel a special form, and nothing grows with the square of the
sequence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

STEPS_AN_OCTAVE = 4
"""Lengths of stacks between one power of two and the next, so that padding is less than a quarter of a document."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Causal, from query, key and value, each ``[documents, heads, length, head size]``, to
``[documents, length, heads, head size]``."""


class Segments(NamedTuple):
    """The documents of one micro batch, whose tokens are numbered row by row."""

    positions: Tensor
    """``[rows, sequence]``: where in its document, or in the part of it that is there, a token is; from 0."""
    stacks: tuple[Tensor, ...]
    """Each ``[documents, length]``: the numbers of the tokens of documents of about this length; of a shorter one the
    last token again."""
    places: Tensor
    """``[rows * sequence]``: where each token is in the stacks, one behind the other."""


def segments_of(tokens: Tensor, end_of_document: int) -> Segments:
    """The documents of ``tokens``, ``[rows, sequence]``; one ends with its token for that, and with its row."""
    rows, length = tokens.shape
    begins = np.ones((rows, length), dtype=bool)
    begins[:, 1:] = (tokens[:, :-1] == end_of_document).cpu().numpy()
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=rows * length)
    sizes = np.minimum(_padded(lengths), length)
    stacks, places, taken = [], np.empty(rows * length, dtype=np.int64), 0
    for size in np.unique(sizes):
        chosen = sizes == size
        columns, ends = np.arange(size), lengths[chosen, None]
        stack = starts[chosen, None] + np.minimum(columns, ends - 1)
        is_own = columns < ends
        places[stack[is_own]] = taken + np.flatnonzero(is_own)
        taken += stack.size
        stacks.append(torch.from_numpy(stack).to(tokens.device))
    positions = (np.arange(rows * length) - np.repeat(starts, lengths)).reshape(rows, length)
    return Segments(
        torch.from_numpy(positions).to(tokens.device), tuple(stacks), torch.from_numpy(places).to(tokens.device)
    )


def _padded(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths rounded up, so that many documents have the same one."""
    exponents = np.frexp(lengths)[1].astype(np.int64) - 1
    step = 1 << np.maximum(exponents - STEPS_AN_OCTAVE.bit_length() + 1, 0)
    return -(-lengths // step) * step


class Documents:
    """Keeps the documents of every micro batch of a model apart."""

    def __init__(self, end_of_document: int) -> None:
        """Each ends with the token ``end_of_document``, which belongs to it."""
        self._end = end_of_document
        self._read: Segments | None = None
        """Of the micro batch whose forward began last."""
        self._running: Segments | None = None
        """Of the one whose block runs: backward may run a block of an earlier one again."""

    def read(self, tokens: Tensor) -> Tensor:
        """Forward of the micro batch ``tokens``, ``[rows, sequence]``, begins; the positions of its tokens."""
        self._read = segments_of(tokens, self._end)
        return self._read.positions

    def handing(self, forward: Callable[..., Any], *inputs: Any, **settings: Any) -> Any:
        """``forward`` of a block, told which documents it is for."""
        return forward(*inputs, documents=self._read, **settings)

    def during(self, forward: Callable[..., Any], *inputs: Any, documents: Segments, **settings: Any) -> Any:
        """``forward`` of a block for these ``documents``, whenever that is."""
        self._running = documents
        return forward(*inputs, **settings)

    def attend(self, attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``attention`` within each document.

        Each is ``[rows, heads, sequence, head size]``, the answer ``[rows, sequence, heads, head size]``.
        """
        assert self._running is not None, "a block runs"
        rows, heads, length, head_size = query.shape
        tokens = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
        seen = []
        for stack in self._running.stacks:
            chosen = (states.index_select(0, stack.flatten()) for states in tokens)
            stacked = (states.view(*stack.shape, *states.shape[1:]).transpose(1, 2) for states in chosen)
            seen.append(attention(*stacked).flatten(0, 1))
        return torch.cat(seen).index_select(0, self._running.places).view(rows, length, heads, head_size)
