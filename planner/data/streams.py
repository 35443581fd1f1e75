"""Token files one after the other as one stream, and documents held out of it."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.data.order import key_of
from planner.data.refusal import unusable
from planner.data.token_files import TokenFile, Tokens

MOST_RUNS = 256
"""Documents are held out in so many runs of neighbours at most, so that a table of them stays small."""


class Segment(NamedTuple):
    """Tokens ``start`` to ``stop`` of a file."""

    tokens: Tokens
    start: int
    stop: int


class Stream:
    """Segments of files, read as if they were one array."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        """Join ``segments`` in their order."""
        self._segments = [one for one in segments if one.stop > one.start]
        sizes = [one.stop - one.start for one in self._segments]
        self._firsts = np.array([0, *accumulate(sizes)], np.int64)
        self.num_tokens = int(self._firsts[-1])

    def joined(self, others: "Sequence[Stream]") -> "Stream":
        """This stream, and others after it."""
        return Stream([segment for one in (self, *others) for segment in one._segments])

    def file_at(self, token: int) -> str:
        """The file that has a token; empty where it is in none."""
        segment = self._segments[int(np.searchsorted(self._firsts, token, "right")) - 1]
        return str(getattr(segment.tokens, "filename", None) or "")

    def read(self, start: int, count: int) -> NDArray[np.int64]:
        """``count`` tokens from ``start`` on, which the stream has."""
        number = int(np.searchsorted(self._firsts, start, "right")) - 1
        parts, missing = [], count
        while missing:
            segment, inside = self._segments[number], start - int(self._firsts[number])
            part = segment.tokens[segment.start + inside : min(segment.stop, segment.start + inside + missing)]
            parts.append(part.astype(np.int64))
            start, missing, number = start + len(part), missing - len(part), number + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


class Split(NamedTuple):
    """A source in two, at borders of documents."""

    training: Stream
    held_out: Stream | None
    held_out_documents: int


def split(files: Sequence[TokenFile], share: float, key: int) -> Split:
    """Hold about ``share`` of the documents out, at least one if it is not 0.

    The documents are divided into up to 256 groups of neighbours, and a run of each is held out, at a place that
    ``key`` draws: so the held-out part is spread over the source, and the rest stays long pieces of the files.

    Raises:
        PlanError: a file has no index, or there are fewer than two documents.
    """
    whole = [Segment(file.tokens, 0, len(file.tokens)) for file in files]
    if share == 0:
        return Split(Stream(whole), None, 0)
    counts = [_count(file) for file in files]
    total = sum(counts)
    if total < 2:  # noqa: PLR2004 - one to learn from, one to hold out
        raise unusable(
            "the only document cannot be held out",
            files[0].path,
            "name files to evaluate on with `evaluation.paths`, or leave `data.held_out` at 0",
        )
    wanted = min(max(round(total * share), 1), total - 1)
    cuts = _Cuts(files, counts)
    training: list[Segment] = []
    held_out: list[Segment] = []
    at = 0
    for first, last in _runs(total, wanted, key):
        training += cuts.between(at, first)
        held_out += cuts.between(first, last)
        at = last
    training += cuts.between(at, total)
    return Split(Stream(training), Stream(held_out), wanted)


def _count(file: TokenFile) -> int:
    if file.num_documents is None:
        raise unusable(
            f"{file.kind}'s .bin does not say where documents begin, so none can be held out",
            file.path,
            "name files to evaluate on with `evaluation.paths`, or leave `data.held_out` at 0",
        )
    return file.num_documents


def _runs(total: int, wanted: int, key: int) -> Iterator[tuple[int, int]]:
    """First document and the one after the last of each run that is held out."""
    groups = min(wanted, MOST_RUNS)
    bounds = [group * total // groups for group in range(groups + 1)]
    for group, (first, last) in enumerate(pairwise(bounds)):
        length = last * wanted // total - first * wanted // total  # they sum to what is wanted
        start = first + key_of(key, group) % (last - first - length + 1)
        yield start, start + length


class _Cuts:
    """Documents of several files, numbered through."""

    def __init__(self, files: Sequence[TokenFile], counts: Sequence[int]) -> None:
        self._files, self._firsts = files, [0, *accumulate(counts)]

    def between(self, first: int, last: int) -> Iterator[Segment]:
        """The tokens of documents ``first`` to ``last``, without the last."""
        for file, (low, high) in zip(self._files, pairwise(self._firsts), strict=True):
            start, stop = max(first, low), min(last, high)
            if start < stop:
                yield Segment(file.tokens, file.document_start(start - low), file.document_start(stop - low))
