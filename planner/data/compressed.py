"""Files as they are, or as .gz or .zst, read as a stream of bytes; one that is cut off is an error."""

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.data.refusal import not_installed

COMPRESSED = (".gz", ".zst")
_CHUNK_BYTES = 2**20


def opened(path: Path) -> io.BufferedReader:
    """The content of a file. Reading raises ``EOFError`` or ``OSError`` where what is compressed ends early.

    Raises:
        PlanError: the package for its compression is not installed.
    """
    if path.suffix == ".gz":
        return io.BufferedReader(gzip.open(path))
    if path.suffix != ".zst":
        return path.open("rb")
    try:
        import zstandard  # noqa: PLC0415 - optional
    except ImportError as error:
        raise not_installed("zstandard", "a .zst file", path) from error
    return io.BufferedReader(_Chunks(_zstandard(path, zstandard)))


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._held:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._held = chunk
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count


def _zstandard(path: Path, zstandard: Any) -> Iterator[bytes]:
    """All frames of a file. The library's own reader ends with the first, and takes a cut for the end."""
    frame: Any = None
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    yield frame.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise OSError(0, str(error)) from error
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the compressed file ends early")
