"""Files of tokens as memory maps: Megatron-LM's pairs of .bin and .idx, and the .bin of nanoGPT and of llm.c.

All numbers in them are little endian.

- An .idx (megatron/core/datasets/indexed_dataset.py at d98e8a6, ``_IndexWriter``): ``MMIDIDX`` and two zero bytes,
  u64 version 1, u8 type of a token, u64 sequences S, u64 entries D (documents + 1); then i32[S] lengths, i64[S] places
  in bytes, i64[D] first sequence of each document, the last entry being S. Its .bin is bare tokens.
- nanoGPT (data/openwebtext/prepare.py): bare u16, an end-of-document token after each document.
- llm.c (dev/data/data_common.py): 256 i32, of which magic, version and number of tokens; then the tokens.
"""

import struct
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.data.refusal import unusable

TokenType = Literal["uint16", "uint32", "int32"]
Tokens = NDArray[Any]

MAGIC = b"MMIDIDX\0\0"
HEAD = struct.Struct("<9sQBQQ")
TYPE_CODES: dict[int, str] = {1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
"""Codes of whole numbers; 6 and 7 are floating point, which no token is."""
LARGEST_U16_VOCABULARY = 65500
"""Vocabularies from here on take four bytes a token (indexed_dataset.py, ``DType.optimal_dtype``)."""
LLMC_HEAD_BYTES = 1024
LLMC_TYPES: dict[tuple[int, int], str] = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
"""Magic and version of an llm.c file to its tokens: GPT-2's and Llama 3's."""
_PROBED_BLOCKS, _PROBE_TOKENS = 64, 4096


class TokenFile(NamedTuple):
    """One file of tokens, mapped."""

    path: Path
    kind: Literal["Megatron", "llm.c", "nanoGPT"]
    tokens: Tokens
    pointers: Tokens | None
    """First byte of each sequence; ``None`` where no index says where documents begin."""
    documents: Tokens | None
    """First sequence of each document, and the number of sequences."""

    @property
    def num_documents(self) -> int | None:
        """``None`` where no index tells it."""
        return None if self.documents is None else len(self.documents) - 1

    def document_start(self, number: int) -> int:
        """The first token of a document; the number of tokens for the one after the last.

        Raises:
            ValueError: the file has no index.
        """
        if self.documents is None or self.pointers is None:
            raise ValueError(self.path)
        sequence = int(self.documents[number])
        if sequence == len(self.pointers):
            return len(self.tokens)
        return int(self.pointers[sequence]) // self.tokens.itemsize

    def largest_seen(self) -> int:
        """The largest of up to 262,144 tokens, spread evenly over the file."""
        starts = np.linspace(0, max(len(self.tokens) - _PROBE_TOKENS, 0), _PROBED_BLOCKS).astype(np.int64)
        return max(int(self.tokens[start : start + _PROBE_TOKENS].max()) for start in np.unique(starts))


def token_type_of(vocab_size: int) -> Literal["uint16", "int32"]:
    """What Megatron-LM keeps the tokens of a vocabulary in."""
    return "uint16" if vocab_size < LARGEST_U16_VOCABULARY else "int32"


def open_token_file(path: Path, token_type: TokenType = "uint16") -> TokenFile:
    """Map the .bin in ``path``, with the .idx beside it if there is one.

    Args:
        path: the .bin.
        token_type: what a file is made of that has neither index nor header, as nanoGPT's.

    Raises:
        PlanError: it is no such file, or its parts do not agree.
    """
    try:
        size = path.stat().st_size
        if path.with_suffix(".idx").is_file():
            return _open_megatron(path, size)
        with path.open("rb") as file:
            head = np.frombuffer(file.read(12).ljust(12, b"\0"), "<i4")
    except OSError as error:
        raise unusable(f"cannot read the tokens: {error.strerror}", path) from error
    known = LLMC_TYPES.get((int(head[0]), int(head[1]))) if size >= LLMC_HEAD_BYTES else None
    if known is not None:
        return _open_llmc(path, size, known, int(head[2]))
    kind = np.dtype(token_type)
    _check_whole(path, size, kind)
    return TokenFile(path, "nanoGPT", np.memmap(path, kind, "r"), None, None)


def _open_megatron(path: Path, size: int) -> TokenFile:
    index = path.with_suffix(".idx")
    raw: Tokens = np.memmap(index, np.uint8, "r") if index.stat().st_size else np.empty(0, np.uint8)
    magic, version, code, sequences, entries = HEAD.unpack(raw[: HEAD.size].tobytes().ljust(HEAD.size, b"\0"))
    if magic != MAGIC or version != 1:
        raise unusable("this is no index of Megatron-LM", index, "an .idx beside a .bin has to be its index")
    if code not in TYPE_CODES:
        raise unusable(f"the tokens are of type {code}, which is no whole number", index)
    if len(raw) < HEAD.size + 12 * sequences + 8 * entries:
        raise unusable(f"the index is cut off: {len(raw)} bytes for {sequences} sequences", index)
    kind = np.dtype(TYPE_CODES[code])
    lengths = np.frombuffer(raw, "<i4", sequences, HEAD.size)
    pointers = np.frombuffer(raw, "<i8", sequences, HEAD.size + 4 * sequences)
    documents = np.frombuffer(raw, "<i8", entries, HEAD.size + 12 * sequences)
    expected = int(lengths.sum(dtype=np.int64)) * kind.itemsize
    if expected != size or (sequences and int(pointers[-1]) + int(lengths[-1]) * kind.itemsize != size):
        raise unusable(f"the index is of {expected} bytes of tokens, and the file has {size}", path)
    if not entries or documents[0] != 0 or documents[-1] != sequences:
        raise unusable("the documents of the index are not all its sequences", index)
    _check_whole(path, size, kind)
    return TokenFile(path, "Megatron", np.memmap(path, kind, "r"), pointers, documents)


def _open_llmc(path: Path, size: int, token_type: str, count: int) -> TokenFile:
    kind = np.dtype(token_type)
    expected = LLMC_HEAD_BYTES + count * kind.itemsize
    if size != expected:
        raise unusable(f"the header is of {count} tokens, {expected} bytes, and the file has {size}", path)
    _check_whole(path, count, np.dtype(np.uint8))
    tokens = np.memmap(path, kind, "r", LLMC_HEAD_BYTES, (count,))
    return TokenFile(path, "llm.c", tokens, None, None)


def _check_whole(path: Path, size: int, kind: np.dtype[Any]) -> None:
    if size == 0:
        raise unusable("there are no tokens in it", path)
    if size % kind.itemsize:
        raise unusable(
            f"{size} bytes are no whole number of tokens of {kind.itemsize} bytes",
            path,
            "a .bin is nanoGPT's, llm.c's or Megatron-LM's with its .idx; `data.token_type` says what the first is of",
        )


def index_bytes(lengths: NDArray[np.int32], ends_document: NDArray[np.bool_], kind: np.dtype[Any]) -> bytes:
    """The .idx of sequences that lie one after the other, as Megatron-LM's ``IndexedDatasetBuilder`` writes it.

    Args:
        lengths: tokens of each sequence.
        ends_document: whether a document ends with it.
        kind: type of a token.
    """
    code = next(number for number, name in TYPE_CODES.items() if np.dtype(name) == kind)
    ends = np.cumsum(lengths, dtype="<i8")
    documents = np.concatenate([[0], np.flatnonzero(ends_document) + 1]).astype("<i8")
    head = HEAD.pack(MAGIC, 1, code, len(lengths), len(documents))
    pointers = ((ends - lengths) * kind.itemsize).astype("<i8")
    return b"".join([head, lengths.astype("<i4").tobytes(), pointers.tobytes(), documents.tobytes()])
