"""Files of tokens, byte for byte."""

import struct
from pathlib import Path

import numpy as np
import pytest

from planner.data.token_files import index_bytes, open_token_file, token_type_of
from planner.diagnostics import PlanError

INDEX = (
    b"MMIDIDX\x00\x00"
    + struct.pack("<QBQQ", 1, 8, 3, 3)  # version, u16, three sequences, two documents and the end
    + struct.pack("<3i", 2, 3, 1)
    + struct.pack("<3q", 0, 4, 10)
    + struct.pack("<3q", 0, 2, 3)
)
"""Sequences of 2, 3 and 1 tokens; the first two are one document."""
TOKENS = np.array([7, 8, 9, 10, 11, 12], "<u2")


def megatron(folder: Path, index: bytes = INDEX, tokens: bytes = TOKENS.tobytes()) -> Path:
    (folder / "set.idx").write_bytes(index)
    (folder / "set.bin").write_bytes(tokens)
    return folder / "set.bin"


def test_an_index_is_written_as_megatron_does() -> None:
    lengths, ends = np.array([2, 3, 1], np.int32), np.array([False, True, True])
    assert index_bytes(lengths, ends, np.dtype("u2")) == INDEX


def test_a_pair_of_megatron_is_mapped(tmp_path: Path) -> None:
    file = open_token_file(megatron(tmp_path))
    assert file.kind == "Megatron"
    assert isinstance(file.tokens, np.memmap)
    assert file.tokens.tolist() == TOKENS.tolist()
    assert file.num_documents == 2
    assert [file.document_start(number) for number in range(3)] == [0, 5, 6]
    assert file.largest_seen() == 12


@pytest.mark.parametrize(
    ("index", "tokens", "message"),
    [
        (b"", TOKENS.tobytes(), "no index of Megatron-LM"),
        (b"MMIDIDX", TOKENS.tobytes(), "no index of Megatron-LM"),
        (INDEX.replace(b"MMID", b"MMAP"), TOKENS.tobytes(), "no index of Megatron-LM"),
        (INDEX[:17] + b"\x06" + INDEX[18:], TOKENS.tobytes(), "type 6"),
        (INDEX[:-8], TOKENS.tobytes(), "cut off: 86 bytes for 3 sequences"),
        (INDEX, TOKENS.tobytes()[:-2], "of 12 bytes of tokens, and the file has 10"),
        (INDEX[:-8] + struct.pack("<q", 2), TOKENS.tobytes(), "not all its sequences"),
    ],
    ids=["empty", "short", "magic", "floats", "cut", "other tokens", "documents"],
)
def test_a_pair_that_is_not_whole_is_refused(index: bytes, tokens: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=message):
        open_token_file(megatron(tmp_path, index, tokens))


def test_nanogpt_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    path.write_bytes(TOKENS.tobytes())
    file = open_token_file(path)
    assert (file.kind, file.tokens.tolist(), file.num_documents) == ("nanoGPT", TOKENS.tolist(), None)
    assert open_token_file(path, "uint32").tokens.tolist() == [7 + (8 << 16), 9 + (10 << 16), 11 + (12 << 16)]
    path.write_bytes(TOKENS.tobytes()[:-1])
    with pytest.raises(PlanError, match="11 bytes are no whole number of tokens of 2 bytes"):
        open_token_file(path)
    path.write_bytes(b"")
    with pytest.raises(PlanError, match="no tokens"):
        open_token_file(path)


@pytest.mark.parametrize(("magic", "version", "kind"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")])
def test_the_header_of_llmc_is_left_out(magic: int, version: int, kind: str, tmp_path: Path) -> None:
    head = np.zeros(256, "<i4")
    head[:3] = magic, version, 6
    path = tmp_path / "val.bin"
    path.write_bytes(head.tobytes() + TOKENS.astype(kind).tobytes())
    file = open_token_file(path)
    assert (file.kind, file.tokens.tolist()) == ("llm.c", TOKENS.tolist())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PlanError, match="the header is of 6 tokens"):
        open_token_file(path)


def test_the_type_of_a_token_is_megatrons() -> None:
    assert [token_type_of(size) for size in (256, 50257, 65499, 65500, 128256)] == [
        "uint16",
        "uint16",
        "uint16",
        "int32",
        "int32",
    ]
