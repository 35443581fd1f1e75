"""Streams of tokens, held-out documents and packed sequences."""

from pathlib import Path

import numpy as np
import pytest

from planner.data.samples import Samples, Source
from planner.data.streams import Segment, Stream, split
from planner.data.token_files import TokenFile, index_bytes, open_token_file
from planner.diagnostics import PlanError


def stream(*sizes: int) -> Stream:
    firsts = np.cumsum([0, *sizes])
    arrays = [np.arange(first, first + size, dtype=np.uint16) for first, size in zip(firsts, sizes, strict=False)]
    return Stream([Segment(array, 0, len(array)) for array in arrays])


def dataset(folder: Path, name: str, lengths: list[int], first: int = 0) -> TokenFile:
    """Documents of these lengths; each token is the number of its document."""
    tokens = np.concatenate([np.full(length, first + number, "<u2") for number, length in enumerate(lengths)])
    (folder / f"{name}.bin").write_bytes(tokens.tobytes())
    ends = np.ones(len(lengths), np.bool_)
    (folder / f"{name}.idx").write_bytes(index_bytes(np.array(lengths, np.int32), ends, tokens.dtype))
    return open_token_file(folder / f"{name}.bin")


def test_a_stream_reads_over_the_ends_of_files() -> None:
    joined = stream(5, 0, 1, 10)
    assert joined.num_tokens == 16
    for start in range(16):
        for count in range(1, 17 - start):
            assert joined.read(start, count).tolist() == list(range(start, start + count))


def test_an_epoch_has_every_sequence_once_in_an_order_of_the_seed() -> None:
    def epochs(seed: int) -> list[int]:
        samples = Samples([Source("a", stream(101))], seq_len=10, seed=seed)
        return [int(samples.sample(number)[0]) // 10 for number in range(20)]

    first = epochs(0)
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert epochs(0) == first
    assert epochs(1) != first


def test_a_sample_has_its_tokens_and_the_next_one() -> None:
    samples = Samples([Source("a", stream(101))], seq_len=10, seed=3)
    assert all(np.array_equal(np.diff(samples.sample(number)), np.ones(10)) for number in range(10))


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_ranks_share_the_same_batch_whatever_their_number(ranks: int) -> None:
    def samples() -> Samples:
        return Samples([Source("a", stream(1000)), Source("b", stream(300), 0.5)], seq_len=7, seed=3)

    share = 8 // ranks
    for step in (0, 1, 50):
        parts = [samples().rows(range(8 * step + rank * share, 8 * step + (rank + 1) * share)) for rank in range(ranks)]
        assert np.array_equal(np.concatenate(parts), samples().rows(range(8 * step, 8 * step + 8)))


def test_what_is_used_and_left_is_counted() -> None:
    samples = Samples([Source("a", stream(1005), 3), Source("b", stream(31))], seq_len=10, seed=0)
    first, second = samples.usage(20_000)
    assert (first.sequences, first.taken, first.left_tokens, first.epochs) == (100, 15_000, 4, 150.0)
    assert (second.sequences, second.taken, second.left_tokens) == (3, 5_000, 0)
    assert samples.num_sequences == 103


def test_what_gives_no_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match="10 tokens, and one sequence needs 11"):
        Samples([Source("a", stream(10))], seq_len=10, seed=0)
    with pytest.raises(PlanError, match="less than one sequence in 10,000"):
        Samples([Source("a", stream(11)), Source("b", stream(11), 1e-6)], seq_len=10, seed=0)


def tokens_of(stream: Stream | None) -> list[int]:
    return [] if stream is None or not stream.num_tokens else stream.read(0, stream.num_tokens).tolist()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_held_out_documents_are_whole_and_seen_nowhere_else(share: float, tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    sizes = [300, 1, 899]
    lengths = [draw.integers(1, 9, size).tolist() for size in sizes]
    firsts = np.cumsum([0, *sizes])
    files = [dataset(tmp_path, str(n), lengths[n], int(firsts[n])) for n in range(3)]
    parts = split(files, share, key=7)
    training, held_out = tokens_of(parts.training), tokens_of(parts.held_out)
    assert not {*training} & {*held_out}
    assert len({*held_out}) == parts.held_out_documents == max(1, round(1200 * share))
    assert sorted(training + held_out) == sorted(int(one) for file in files for one in file.tokens)
    # Spread over the whole source, not one end of it.
    assert share == 0.001 or max(held_out) - min(held_out) > 900
    again = split(files, share, key=7)
    assert tokens_of(again.held_out) == held_out


def test_nothing_is_held_out_of_what_has_no_documents(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(np.arange(100, dtype="<u2").tobytes())
    file = open_token_file(path)
    assert split([file], 0.0, key=0).held_out is None
    with pytest.raises(PlanError, match=r"nanoGPT's \.bin does not say where documents begin"):
        split([file], 0.1, key=0)
    with pytest.raises(PlanError, match="the only document"):
        split([dataset(tmp_path, "one", [50])], 0.1, key=0)
