"""The order of samples as a formula: a keyed permutation without a table, and blending with exact quotas.

Where a sample comes from is a function of the sources, the seed and its number alone. Nothing has to be kept to go
on from any sample, and nothing depends on how many ranks share a batch.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

BLOCK = 10_000
"""Samples of a blend that together hold the exact share of every source."""
_ROUNDS = 4
_MASK = 2**64 - 1


def key_of(*parts: int) -> int:
    """A 64-bit key, another one for other numbers."""
    text = " ".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def permuted(index: int, size: int, key: int) -> int:
    """Where the permutation of ``range(size)`` with this ``key`` sends ``index``.

    A Feistel network of four rounds permutes the next power of four; what falls outside is sent on until it is
    inside ("cycle walking", Black and Rogaway 2002), less than four times on average. The rounds mix by the finalizer
    of SplitMix64 (Steele, Lea and Flood 2014).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for turn in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right + key + turn * 0x9E3779B97F4A7C15) & mask)
        index = left << half | right
        if index < size:
            return index


def _mixed(value: int) -> int:
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class Blend:
    """Which source a sample is from: blocks of 10,000 samples, each with every source's quota, shuffled."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        """Share a block by ``weights``, which are positive; the largest remainders get what rounding leaves."""
        total = sum(map(Fraction, weights))
        shares = [Fraction(weight) / total * BLOCK for weight in weights]
        self.quotas = [int(share) for share in shares]
        by_remainder = sorted(range(len(shares)), key=lambda source: self.quotas[source] - shares[source])
        for source in by_remainder[: BLOCK - sum(self.quotas)]:
            self.quotas[source] += 1
        self._seed = seed
        self._source_of = [source for source, quota in enumerate(self.quotas) for _ in range(quota)]
        self._first = [sum(self.quotas[:source]) for source in range(len(self.quotas))]

    def place(self, sample: int) -> tuple[int, int]:
        """The source of a sample, and which of that source's samples it is."""
        if len(self.quotas) == 1:
            return 0, sample
        block, index = divmod(sample, BLOCK)
        slot = permuted(index, BLOCK, key_of(self._seed, block))
        source = self._source_of[slot]
        return source, block * self.quotas[source] + slot - self._first[source]

    def taken(self, num_samples: int) -> list[int]:
        """How many of the first ``num_samples`` samples each source gives."""
        blocks, rest = divmod(num_samples, BLOCK)
        counts = [blocks * quota for quota in self.quotas]
        for sample in range(num_samples - rest, num_samples):
            counts[self.place(sample)[0]] += 1
        return counts


@lru_cache(maxsize=64)
def epoch_key(seed: int, source: int, epoch: int) -> int:
    """The key of a source's permutation in an epoch."""
    return key_of(seed, source, epoch)
