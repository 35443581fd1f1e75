"""The batches of one rank, read from memory maps."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from planner.data.refusal import unusable
from planner.data.samples import Samples


class Batches:
    """Global batches of samples, of which a data-parallel rank reads its rows."""

    def __init__(self, samples: Samples, *, global_batch: int, vocab_size: int) -> None:
        """Take ``global_batch`` samples a step, of tokens below ``vocab_size``."""
        self._samples, self._global_batch, self._vocab_size = samples, global_batch, vocab_size

    def batch(self, step: int, rows: slice) -> dict[str, Tensor]:
        """``rows`` of the global batch of ``step``, counted from 0.

        Raises:
            PlanError: a token is beyond the vocabulary.
        """
        found = self._samples.rows(step, self._global_batch, rows)
        if found.max() >= self._vocab_size:
            self._refuse(found, step, rows)
        sequences = torch.from_numpy(found)
        return {"input_ids": sequences[:, :-1].contiguous(), "labels": sequences[:, 1:].contiguous()}

    def origins(self, step: int, rows: slice) -> list[dict[str, Any]]:
        """Where rows of the global batch of a step are from: number of the sample, source, epoch, tokens and file."""
        first = step * self._global_batch
        numbers = [first + row for row in range(*rows.indices(self._global_batch))]
        return [
            {"sample": number, **self._samples.place(number)._asdict(), "file": self._samples.file(number)}
            for number in numbers
        ]

    def _refuse(self, found: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", step: int, rows: slice) -> None:
        row, column = (int(place) for place in np.argwhere(found >= self._vocab_size)[0])
        place = self._samples.place(step * self._global_batch + rows.start + row)
        raise unusable(
            f"token {found[row, column]} of step {step + 1} is beyond the model's vocabulary of {self._vocab_size}",
            f"{place.source}, token {place.first_token + column}",
            "tokenize with the model's tokenizer",
        )
