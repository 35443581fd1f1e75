"""Packed sequences of several sources: which tokens the n-th sample of a job has."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.data.order import BLOCK, Blend, epoch_key, permuted
from planner.data.refusal import unusable
from planner.data.streams import Stream


class Source(NamedTuple):
    """One stream of a blend."""

    name: str
    """What the job calls it."""
    stream: Stream
    weight: float = 1.0


class Place(NamedTuple):
    """Where a sample is from."""

    source: str
    epoch: int
    """How often the source has been gone through before."""
    first_token: int
    """Of the source's stream."""


class Usage(NamedTuple):
    """What a number of samples takes of one source."""

    source: str
    sequences: int
    """That the source has."""
    taken: int
    """That are taken, each of them once an epoch."""
    left_tokens: int
    """At the end of the stream, fewer than a sequence: never seen."""

    @property
    def epochs(self) -> float:
        """How often the source is gone through."""
        return self.taken / self.sequences


class Samples:
    """Sequences of ``seq_len`` tokens and the one after them, cut from streams, shuffled anew for every epoch.

    A sample is a function of the sources, the seed and its number, so that every layout sees the same ones in every
    step, and a rank reads no more than its own.
    """

    def __init__(self, sources: Sequence[Source], *, seq_len: int, seed: int, shuffled: bool = True) -> None:
        """Cut ``sources``; without ``shuffled`` they stay in their order.

        Raises:
            PlanError: a source is shorter than a sequence, or its share of a blend is too small.
        """
        self._sources, self._seq_len, self._seed, self._shuffled = sources, seq_len, seed, shuffled
        self._sequences = [(source.stream.num_tokens - 1) // seq_len for source in sources]
        for source, sequences in zip(sources, self._sequences, strict=True):
            if sequences < 1:
                raise unusable(
                    f"there are {source.stream.num_tokens} tokens, and one sequence needs {seq_len + 1}",
                    source.name,
                    "name more data in `data.paths`, or solve for a smaller `--seq-len`",
                )
        self._blend = Blend([source.weight for source in sources], seed)
        for source, quota in zip(sources, self._blend.quotas, strict=True):
            if quota == 0:
                raise unusable(
                    f"a weight of {source.weight:g} is less than one sequence in {BLOCK:,}",
                    source.name,
                    "leave the source out, or raise its weight in `data.weights`",
                )

    @property
    def num_sequences(self) -> int:
        """Of all sources together."""
        return sum(self._sequences)

    def place(self, number: int) -> Place:
        """Where the sample ``number`` is from, counted from 0."""
        source, index = self._blend.place(number)
        size = self._sequences[source]
        epoch, sequence = divmod(index, size)
        if self._shuffled:
            sequence = permuted(sequence, size, epoch_key(self._seed, source, epoch))
        return Place(self._sources[source].name, epoch, sequence * self._seq_len)

    def file(self, number: int) -> str:
        """The file of tokens in which the sample ``number`` begins."""
        return self._sources[self._blend.place(number)[0]].stream.file_at(self.place(number).first_token)

    def sample(self, number: int) -> NDArray[np.int64]:
        """The ``seq_len + 1`` tokens of the sample ``number``."""
        place = self.place(number)
        source = self._blend.place(number)[0]
        return self._sources[source].stream.read(place.first_token, self._seq_len + 1)

    def rows(self, numbers: Iterable[int]) -> NDArray[np.int64]:
        """Samples of these numbers: ``[rows, seq_len + 1]``."""
        return np.stack([self.sample(number) for number in numbers])

    def usage(self, num_samples: int) -> list[Usage]:
        """What the first ``num_samples`` samples take of each source."""
        taken = self._blend.taken(num_samples)
        return [
            Usage(source.name, sequences, count, source.stream.num_tokens - sequences * self._seq_len - 1)
            for source, sequences, count in zip(self._sources, self._sequences, taken, strict=True)
        ]
