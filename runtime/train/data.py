"""Text to packed sequences: any text files, tokenised to bytes or with a `tokenizer.json`."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planner.handover.texts import Tokenizer, check_length, text_files, token_chunks

MAX_TOKENS = 2**26
"""Tokens read at most, the same for every rank: 64 Mi, or 256 MiB of memory."""


class Tokens(NamedTuple):
    """The beginning of a text."""

    used: NDArray[np.int32]
    available: int
    """About how many tokens the whole text has; exact where all of it was read."""

    def note(self, wanted: int) -> str:
        """What to say where a run of ``wanted`` tokens does not get them though the text has them; else empty."""
        if len(self.used) >= min(wanted, self.available):
            return ""
        return (
            f"note: the first {len(self.used):,} of about {self.available:,} tokens are used, again and again; "
            "the rest of the text is left out, for no more are held in memory"
        )


def read_tokens(data: Path | None, tokenizer: Tokenizer, num_tokens: int) -> Tokens:
    """The first ``num_tokens`` tokens of the text, or all if there are fewer, and never more than :data:`MAX_TOKENS`.

    ``data`` is a text file or a folder of them, taken in the order of their names; without it, the
    source files of Python's standard library.

    Raises:
        PlanError: there is no text.
    """
    files, wanted = text_files(data), min(num_tokens, MAX_TOKENS)
    parts: list[NDArray[np.int32]] = []
    num_read = num_bytes = 0
    for size, tokens in token_chunks(files, tokenizer):
        parts.append(np.array(tokens, dtype=np.int32))
        num_read, num_bytes = num_read + len(tokens), num_bytes + size
        if num_read >= wanted:
            break
    all_bytes = max(num_bytes, sum(path.stat().st_size for path in files))
    return Tokens(np.concatenate(parts)[:wanted], round(num_read * all_bytes / num_bytes))


class PackedBatches:
    """Sequences cut from one token stream, in an order shuffled anew for every epoch.

    A global batch is the same whatever the layout; a data-parallel rank takes its rows of it.
    """

    def __init__(self, tokens: NDArray[np.int32], *, seq_len: int, global_batch: int, seed: int) -> None:
        """Cut ``tokens`` into sequences of ``seq_len`` inputs and their next tokens.

        Raises:
            PlanError: the text is shorter than one sequence.
        """
        check_length(len(tokens), seq_len)
        self.num_sequences = (len(tokens) - 1) // seq_len
        self._tokens = torch.from_numpy(tokens)
        self._seq_len, self._global_batch, self._seed = seq_len, global_batch, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def batch(self, step: int, rows: slice) -> dict[str, Tensor]:
        """``rows`` of the global batch of ``step``, counted from 0."""
        first = step * self._global_batch
        numbers = [self._sequence(first + row) for row in range(*rows.indices(self._global_batch))]
        cut = [self._tokens[n * self._seq_len : (n + 1) * self._seq_len + 1] for n in numbers]
        sequences = torch.stack(cut).long()
        return {"input_ids": sequences[:, :-1].contiguous(), "labels": sequences[:, 1:].contiguous()}

    def _sequence(self, position: int) -> int:
        epoch, index = divmod(position, self.num_sequences)
        if epoch not in self._orders:
            order = np.random.default_rng((self._seed, epoch)).permutation(self.num_sequences)
            # A batch reaches over the end of an epoch at most into the epochs it still needs.
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return int(self._orders[epoch][index])
