"""One part of tokenizing, as a process of its own makes it."""

import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from planner.data.records import Piece, Tally, documents
from planner.data.token_files import token_type_of
from planner.data.tokenizers import Tokenizer, load_tokenizer
from planner.diagnostics import Diagnostic, PlanError

_BATCH = 256
"""Texts that are tokenized together."""
_MARK = "json"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What a part holds."""

    documents: int = 0
    """That end in it."""
    tokens: int = 0
    bad: dict[str, int] = {}
    first_bad: dict[str, str] = {}
    replaced_bytes: int = 0
    failed: tuple[Diagnostic, ...] = ()
    """Why it could not be made; nothing is there then."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is told."""

    folder: str
    number: int
    pieces: tuple[Piece, ...]
    field: str
    tokenizer: str
    end_of_document: str

    @staticmethod
    def path(folder: Path, number: int, suffix: str) -> Path:
        """A file of a part."""
        return folder / f"{number:07d}.{suffix}"

    def made(self) -> Part | None:
        """The part, if it is complete: its mark is written last."""
        try:
            return msgspec.json.decode(self.path(Path(self.folder), self.number, _MARK).read_bytes(), type=Part)
        except (OSError, msgspec.DecodeError):
            return None


def make_part(task: Task) -> Part:
    """Tokenize the pieces of a part: its tokens, the length of each sequence and whether a document ends with it."""
    try:
        part, lengths, ends = _tokens(task)
    except PlanError as error:
        return Part(failed=error.diagnostics)
    folder = Path(task.folder)
    with Task.path(folder, task.number, "npz").open("wb") as file:
        np.savez(file, lengths=np.array(lengths, np.int32), ends=np.array(ends, np.bool_))
        _flush(file)
    beside = Task.path(folder, task.number, f"{_MARK}.new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(part))
        _flush(file)
    beside.replace(Task.path(folder, task.number, _MARK))
    return part


def _tokens(task: Task) -> tuple[Part, list[int], list[bool]]:
    tokenizer, tally = _tokenizer(task.tokenizer, task.end_of_document), Tally()
    kind: np.dtype[Any] = np.dtype(token_type_of(tokenizer.vocab_size))
    end = np.array([tokenizer.end_of_document], kind)
    lengths: list[int] = []
    ends: list[bool] = []
    with Task.path(Path(task.folder), task.number, "tokens").open("wb") as file:
        found = (text for piece in task.pieces for text in documents(piece, task.field, tally))
        for batch in _batches(found):
            encoded = tokenizer.encode([text for text, _ in batch], kind)
            for tokens, (_, is_end) in zip(encoded, batch, strict=True):
                whole = np.concatenate([tokens, end]) if is_end else tokens
                file.write(whole.tobytes())
                lengths.append(len(whole))
                ends.append(is_end)
        _flush(file)
    bad, first = {str(what): count for what, count in tally.bad.items()}, {str(k): v for k, v in tally.first.items()}
    part = Part(documents=sum(ends), tokens=sum(lengths), bad=bad, first_bad=first, replaced_bytes=tally.replaced_bytes)
    return part, lengths, ends


def _batches(found: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    texts = iter(found)
    while batch := list(islice(texts, _BATCH)):
        yield batch


@lru_cache(maxsize=1)
def _tokenizer(path: str, end_of_document: str) -> Tokenizer:
    """Loaded once a process."""
    return load_tokenizer(path, end_of_document)


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
