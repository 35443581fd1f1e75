"""Documents out of files of every kind, with what is none counted."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.data import records
from planner.data.inputs import STANDARD_LIBRARY, File, Kind, find, kind_of
from planner.data.records import Tally, documents, pieces_of
from planner.diagnostics import PlanError

LINES = b'{"text": "one", "id": 1}\n{"id": 2}\n\n{"text": 3}\n{"text": ""}\nno json\n{"text": "t\\u0077o"}\n[1]\n'


def read(path: Path, kind: Kind | None = None, field: str = "text") -> tuple[list[tuple[str, bool]], Tally]:
    tally = Tally()
    found = kind or kind_of(path)
    assert found is not None
    pieces = list(pieces_of(File(path, found)))
    return [text for piece in pieces for text in documents(piece, field, tally)], tally


def plain(content: bytes) -> bytes:
    return content


def zstd(content: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    # Two frames one after the other, as tools that compress in parallel write them.
    half = len(content) // 2
    whole: bytes = zstandard.compress(content[:half]) + zstandard.compress(content[half:])
    return whole


COMPRESSIONS = [("", plain), (".gz", gzip.compress), (".zst", zstd)]


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSIONS, ids=["plain", "gz", "zst"])
def test_records_without_a_text_are_counted_with_their_place(
    suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(LINES))
    texts, tally = read(path)
    assert texts == [("one", True), ("two", True)]
    assert tally.bad == {"without the field": 1, "not text": 2, "empty": 1, "not JSON": 1}
    assert tally.first["not JSON"] == f"{path}:6"


def test_another_field_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"the body": "x"}\n{"the body": "y"}')
    assert read(path, field="the body")[0] == [("x", True), ("y", True)]


@pytest.mark.parametrize(("suffix", "compress"), COMPRESSIONS[1:], ids=["gz", "zst"])
def test_a_compressed_file_that_is_cut_off_is_refused(
    suffix: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress(random.Random(1).randbytes(9999).hex().encode())[:-300])
    with pytest.raises(PlanError, match=r"cannot read the data: .*(end|marker)"):
        read(path, "text")


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_pieces_of_a_large_file_hold_every_line_once(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(3)
    lines = [("\u00e9" * draw.randrange(40)) for _ in range(200)]
    content = [line if kind == "text" else f'{{"text": "x{line}"}}' for line in lines]
    path = tmp_path / "a.txt"
    path.write_text("\n".join(content), encoding="utf-8")
    whole = read(path, kind)[0]
    for size in (1, 7, 50, 1000):
        monkeypatch.setattr(records, "PIECE_BYTES", size)
        texts, tally = read(path, kind)
        assert not tally.bad
        assert "".join(text for text, _ in texts) == "".join(text for text, _ in whole)
        assert sum(ends for _, ends in texts) == len(whole)
        assert texts[-1][1]


def test_an_empty_text_is_no_document_and_a_wrong_byte_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    assert read(tmp_path / "a.txt", "text")[0] == []
    assert read(tmp_path / "a.txt", "text")[1].bad == {"empty": 1}
    (tmp_path / "b.txt").write_bytes(b"jos\xe9 \xff")
    texts, tally = read(tmp_path / "b.txt", "text")
    assert (texts, tally.replaced_bytes) == ([("jos\ufffd \ufffd", True)], 2)


def test_parquet_is_read_group_by_group(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.table({"text": ["a", None, "", "b", "c"], "n": [1, 2, 3, 4, 5]}), path, row_group_size=2
    )
    assert len(list(pieces_of(File(path, "parquet")))) == 3
    texts, tally = read(path)
    assert texts == [("a", True), ("b", True), ("c", True)]
    assert tally.bad == {"without the field": 1, "empty": 1}
    with pytest.raises(PlanError, match="no column `body`"):
        read(path, field="body")
    assert read(path, field="n")[1].bad == {"not text": 5}
    path.write_bytes(b"PAR1")
    with pytest.raises(PlanError, match="no Parquet file"):
        read(path)


@pytest.mark.parametrize("name", ["new_stream", "new_file"])
def test_arrow_is_read_as_a_stream_and_as_a_file(name: str, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path, table = tmp_path / "a.arrow", pyarrow.table({"text": ["a", "b"]})
    with pyarrow.OSFile(str(path), "wb") as file, getattr(pyarrow.ipc, name)(file, table.schema) as writer:
        writer.write_table(table)
    assert read(path)[0] == [("a", True), ("b", True)]
    with pytest.raises(PlanError, match="no column `body`"):
        read(path, field="body")
    path.write_bytes(b"what")
    with pytest.raises(PlanError, match="no Arrow file"):
        read(path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name in {"pyarrow": "a.parquet", "zstandard": "a.txt.zst"}.items():
        monkeypatch.setitem(__import__("sys").modules, package, None)
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(PlanError, match=f"the package {package}, which is not installed"):
            read(tmp_path / name)


FILES = {
    "b/c.txt": b"two",
    "a.txt": b"one",
    "z.md": "\u00e9".encode(),
    "noise": b"\0\1",
    ".git/x": b"no",
    "latin.txt": b"\xff\xfe",
    "r.json": b'{"text": "x"}\n{"text": "y"}\n',
    "c.json": b'{\n  "text": "x"\n}\n',
    "t.bin": b"\1\2",
    "t.idx": b"\1\2",
    "t.json": b"{}",
    "half.parts/joined.bin": b"\1\2",
    "n.txt.gz": gzip.compress(b"text"),
    "n.tar.gz": gzip.compress(b"ustar\0"),
}


def test_what_a_folder_holds(tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    found = find(str(tmp_path))
    kinds = {file.path.relative_to(tmp_path).as_posix(): file.kind for file in found.files}
    assert list(kinds) == ["a.txt", "b/c.txt", "c.json", "n.txt.gz", "r.json", "t.bin", "z.md"]
    assert kinds == {
        "a.txt": "text",
        "b/c.txt": "text",
        "c.json": "text",
        "n.txt.gz": "text",
        "r.json": "jsonl",
        "t.bin": "tokens",
        "z.md": "text",
    }
    assert found.passed_over == 3
    assert [file.path.name for file in find(str(tmp_path / "*.json")).files] == ["c.json", "r.json"]
    for name in ("t", "t.bin", "t.idx"):
        assert find(str(tmp_path / name)).files == [File(tmp_path / "t.bin", "tokens")]


def test_an_index_without_its_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.idx").write_bytes(b"")
    for path in (tmp_path, tmp_path / "t.idx"):
        with pytest.raises(PlanError, match=r"the \.bin of this index is not there"):
            find(str(path))


@pytest.mark.parametrize(
    ("path", "message"),
    [("latin.txt", "no UTF-8"), ("none.txt", "no such file"), ("*.parquet", "nothing to learn from")],
)
def test_what_is_named_and_is_nothing_is_refused(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=message):
        find(str(tmp_path / path))


def test_the_standard_library_is_text() -> None:
    files = find(STANDARD_LIBRARY).files
    assert len(files) > 100
    assert {file.kind for file in files} == {"text"}
    assert not any("site-packages" in file.path.parts for file in files)
