"""Documents of text, JSONL, Parquet and Arrow files, piece by piece, with what is no document counted."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from planner.data.compressed import COMPRESSED, opened
from planner.data.inputs import File, Kind
from planner.data.refusal import not_installed, unusable

Bad = Literal["not JSON", "without the field", "not text", "empty"]
PIECE_BYTES = 2**23
"""About how much text is tokenized at once: the least that is done again after an interruption."""
_BOM = b"\xef\xbb\xbf"


class Piece(msgspec.Struct, frozen=True):
    """A part of a file that is read on its own."""

    path: str
    kind: Kind
    start: int
    """First byte, or first row group of a Parquet file."""
    stop: int
    """The byte or row group after the last; 0: the whole file."""
    size_bytes: int
    """About how much it is."""

    @property
    def is_last(self) -> bool:
        """Whether the file ends with it."""
        return self.stop == 0


class Tally:
    """What was found in some pieces beside documents."""

    def __init__(self) -> None:
        self.bad: Counter[Bad] = Counter()
        self.first: dict[Bad, str] = {}
        """Where each kind was first found."""
        self.replaced_bytes = 0
        """That are not UTF-8."""

    def note(self, what: Bad, where: str) -> None:
        """One more record that is no document."""
        self.bad[what] += 1
        self.first.setdefault(what, where)


def pieces_of(file: File) -> Iterator[Piece]:
    """The pieces of a file, in their order.

    Raises:
        PlanError: a package that it takes is not installed, or the file cannot be read.
    """
    path, size = file.path, file.path.stat().st_size
    if file.kind == "parquet":
        table = _parquet(path)
        groups = table.num_row_groups
        for group in range(groups):
            num_bytes = table.metadata.row_group(group).total_byte_size
            yield Piece(str(path), "parquet", group, group + 1 if group + 1 < groups else 0, num_bytes)
        return
    if path.suffix in COMPRESSED or file.kind == "arrow" or size <= PIECE_BYTES:
        yield Piece(str(path), file.kind, 0, 0, size)
        return
    for start in range(0, size, PIECE_BYTES):
        stop = start + PIECE_BYTES
        yield Piece(str(path), file.kind, start, stop if stop < size else 0, min(PIECE_BYTES, size - start))


def documents(piece: Piece, field: str, tally: Tally) -> Iterator[tuple[str, bool]]:
    """Texts of a piece, and whether a document ends with each: a long text comes in parts, cut at the end of a line.

    Raises:
        PlanError: the file cannot be read, or no record of a table has the field.
    """
    path = Path(piece.path)
    try:
        match piece.kind:
            case "text":
                yield from _texts(piece, tally)
            case "jsonl":
                yield from ((text, True) for text in _records(piece, field, tally))
            case _:
                rows = _parquet_rows(path, piece.start, field) if piece.kind == "parquet" else _arrow_rows(path, field)
                yield from ((text, True) for text in _columns(rows, piece, tally))
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise unusable(f"cannot read the data: {reason}", path) from error


def _texts(piece: Piece, tally: Tally) -> Iterator[tuple[str, bool]]:
    held: list[bytes] = []
    size, found = 0, False
    for line in _lines(piece):
        held.append(line)
        size += len(line)
        if size >= PIECE_BYTES:
            yield _decoded(b"".join(held), tally), False
            held, size, found = [], 0, True
    text = _decoded(b"".join(held), tally)
    if not text and not found and piece.start == 0 and piece.is_last:
        tally.note("empty", piece.path)
    elif text or piece.is_last:
        yield text, piece.is_last


def _decoded(raw: bytes, tally: Tally) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        text = raw.decode(errors="replace")
        tally.replaced_bytes += text.count("\N{REPLACEMENT CHARACTER}")
        return text


def _records(piece: Piece, field: str, tally: Tally) -> Iterator[str]:
    record = msgspec.defstruct("Record", [("text", str | None, None)], rename={"text": field})
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(record)
    for number, line in enumerate(_lines(piece), start=1):
        if line.isspace():
            continue
        # Lines are counted from where the piece begins.
        where = f"{piece.path}:{number}" if piece.start == 0 else f"{piece.path}, line {number} from byte {piece.start}"
        try:
            text = decoder.decode(line).text
        except msgspec.ValidationError:
            tally.note("not text", where)
            continue
        except (msgspec.DecodeError, UnicodeDecodeError):
            tally.note("not JSON", where)
            continue
        if text:
            yield text
        else:
            tally.note("empty" if text == "" else "without the field", where)


def _lines(piece: Piece) -> Iterator[bytes]:
    """The lines that begin in a piece, with their ends."""
    with opened(Path(piece.path)) as file:
        at = piece.start
        if at:
            file.seek(at - 1)
            at += len(file.readline()) - 1
        elif file.peek(len(_BOM)).startswith(_BOM):
            at = len(file.read(len(_BOM)))
        for line in file:
            if not piece.is_last and at >= piece.stop:
                return
            at += len(line)
            yield line


def _columns(rows: Iterable[Any], piece: Piece, tally: Tally) -> Iterator[str]:
    for number, text in enumerate(rows):
        if isinstance(text, str) and text:
            yield text
        else:
            what: Bad = "without the field" if text is None else "empty" if text == "" else "not text"
            tally.note(what, f"{piece.path}, row {number} of group {piece.start}")


def _parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid, parquet  # noqa: PLC0415 - optional, and large
    except ImportError as error:
        raise not_installed("pyarrow", "a Parquet file", path) from error
    try:
        return parquet.ParquetFile(path)
    except ArrowInvalid as error:
        raise unusable(f"this is no Parquet file: {error}", path) from error


def _parquet_rows(path: Path, group: int, field: str) -> Iterator[Any]:
    file = _parquet(path)
    _check_column(path, field, file.schema_arrow.names)
    for batch in file.iter_batches(row_groups=[group], columns=[field]):
        yield from batch.column(0).to_pylist()


def _arrow_rows(path: Path, field: str) -> Iterator[Any]:
    try:
        import pyarrow  # noqa: PLC0415 - optional, and large
    except ImportError as error:
        raise not_installed("pyarrow", "an Arrow file", path) from error
    with pyarrow.memory_map(str(path)) as mapped:
        try:
            table = pyarrow.ipc.open_stream(mapped)  # what the datasets library writes
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            table = _arrow_file(pyarrow, mapped, path)
        _check_column(path, field, table.schema.names)
        batches = table if hasattr(table, "__iter__") else map(table.get_batch, range(table.num_record_batches))
        for batch in batches:
            yield from batch.column(field).to_pylist()


def _arrow_file(pyarrow: Any, mapped: Any, path: Path) -> Any:
    try:
        return pyarrow.ipc.open_file(mapped)
    except pyarrow.ArrowInvalid as error:
        raise unusable(f"this is no Arrow file: {error}", path) from error


def _check_column(path: Path, field: str, names: list[str]) -> None:
    if field not in names:
        raise unusable(
            f"there is no column `{field}`", path, f"`data.field` takes one of its columns: {', '.join(names)}"
        )
