"""The batches of one rank, read from memory maps."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from planner.data.refusal import unusable
from planner.data.samples import Samples
from planner.jobs.batches import BatchSchedule


class Batches:
    """Global batches of samples, of which a data-parallel rank reads its rows."""

    def __init__(self, samples: Samples, sizes: BatchSchedule, *, vocab_size: int) -> None:
        """Take as many samples a step as ``sizes`` says, of tokens below ``vocab_size``."""
        self._samples, self.sizes, self._vocab_size = samples, sizes, vocab_size

    def _numbers(self, step: int, rows: slice) -> list[int]:
        """The samples of rows of the global batch of a step."""
        first = self.sizes.consumed(step)
        return [first + row for row in range(*rows.indices(self.sizes.batch(step)))]

    def batch(self, step: int, rows: slice) -> dict[str, Tensor]:
        """``rows`` of the global batch of ``step``, counted from 0.

        Raises:
            PlanError: a token is beyond the vocabulary.
        """
        found = self._samples.rows(self._numbers(step, rows))
        if found.max() >= self._vocab_size:
            self._refuse(found, step, rows)
        sequences = torch.from_numpy(found)
        return {"input_ids": sequences[:, :-1].contiguous(), "labels": sequences[:, 1:].contiguous()}

    def origins(self, step: int, rows: slice) -> list[dict[str, Any]]:
        """Where rows of the global batch of a step are from: number of the sample, source, epoch, tokens and file."""
        return [
            {"sample": number, **self._samples.place(number)._asdict(), "file": self._samples.file(number)}
            for number in self._numbers(step, rows)
        ]

    def _refuse(self, found: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", step: int, rows: slice) -> None:
        row, column = (int(place) for place in np.argwhere(found >= self._vocab_size)[0])
        place = self._samples.place(self._numbers(step, rows)[row])
        raise unusable(
            f"token {found[row, column]} of step {step + 1} is beyond the model's vocabulary of {self._vocab_size}",
            f"{place.source}, token {place.first_token + column}",
            "tokenize with the model's tokenizer",
        )
