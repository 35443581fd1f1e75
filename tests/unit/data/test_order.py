"""The order of samples."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from planner.data.order import BLOCK, Blend, key_of, permuted


def test_a_permutation_reaches_everything_once() -> None:
    draw = random.Random(5)
    for size in [1, 2, 3, 4, 5, 16, 17, 1000, *(draw.randrange(2, 3000) for _ in range(20))]:
        key = draw.getrandbits(64)
        assert sorted(permuted(index, size, key) for index in range(size)) == list(range(size))


def test_a_permutation_looks_drawn() -> None:
    size = 10_000
    sent = [permuted(index, size, key_of(1)) for index in range(size)]
    assert sent != [permuted(index, size, key_of(2)) for index in range(size)]
    # Of a drawn permutation, one place in `size` stays, and neighbours end a third of the range apart.
    assert sum(index == place for index, place in enumerate(sent)) < 8
    apart = sum(abs(after - before) for before, after in pairwise(sent)) / (size - 1)
    assert apart == pytest.approx(size / 3, rel=0.03)


def test_a_place_in_a_large_range_needs_no_table() -> None:
    size = 488_000_000_000
    assert len({permuted(index, size, 3) for index in range(2000)}) == 2000
    assert all(0 <= permuted(index, size, 3) < size for index in range(size - 100, size))


def test_a_block_has_the_exact_share_of_every_source() -> None:
    blend = Blend([0.7, 0.2, 0.1], seed=4)
    assert blend.quotas == [7000, 2000, 1000]
    for block in (0, 3):
        places = [blend.place(block * BLOCK + index) for index in range(BLOCK)]
        assert Counter(source for source, _ in places) == {0: 7000, 1: 2000, 2: 1000}
        for source, quota in enumerate(blend.quotas):
            taken = sorted(index for which, index in places if which == source)
            assert taken == list(range(block * quota, (block + 1) * quota))


def test_rounding_leaves_no_sample_without_a_source() -> None:
    blend = Blend([1, 1, 1], seed=0)
    assert sorted(blend.quotas) == [3333, 3333, 3334]
    assert Blend([1e-9, 1], seed=0).quotas == [0, BLOCK]


def test_what_is_taken_of_each_source_is_counted() -> None:
    blend = Blend([3, 1], seed=9)
    for count in (0, 1, 777, BLOCK, 2 * BLOCK + 123):
        counted = Counter(blend.place(sample)[0] for sample in range(count))
        assert blend.taken(count) == [counted[0], counted[1]]


def test_one_source_is_taken_as_it_is() -> None:
    assert [Blend([5.0], seed=1).place(sample) for sample in (0, 1, 20_000)] == [(0, 0), (0, 1), (0, 20_000)]
