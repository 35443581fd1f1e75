"""From paths to files: what a file, a folder or a pattern names, and what each file is."""

import codecs
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from planner.data.compressed import COMPRESSED, opened
from planner.data.refusal import unusable
from planner.diagnostics import PlanError

Kind = Literal["tokens", "text", "jsonl", "parquet", "arrow"]
STANDARD_LIBRARY = "the standard library of this Python"
"""What stands for its source text where nothing is named."""
_KINDS: dict[str, Kind] = {
    ".bin": "tokens",
    ".idx": "tokens",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_PATTERN = frozenset("*?[")
_PROBE_BYTES = 2**16
_SKIPPED_FOLDERS = ("site-packages", "dist-packages", "__pycache__")


class File(NamedTuple):
    """One file to learn from."""

    path: Path
    kind: Kind


class Found(NamedTuple):
    """What a path of a job names."""

    files: list[File]
    passed_over: int
    """Files of a folder that are neither text nor tokens."""


def find(path: str) -> Found:
    """The files that ``path`` names, in the order of their names: a file, all of a folder, or those of a pattern.

    Raises:
        PlanError: there are none, or one that is named is nothing to learn from.
    """
    place = Path(path)
    try:
        if path == STANDARD_LIBRARY:
            return _of_folder(Path(sysconfig.get_path("stdlib")), "*.py")
        if place.is_dir():
            found = _of_folder(place, "*")
        elif place.exists() or place.with_name(place.name + ".idx").is_file():
            found = Found([_named(place)], 0)
        else:
            found = _of_pattern(path)
    except OSError as error:
        raise unusable(f"cannot read the data: {error.strerror}", error.filename or path) from error
    if not found.files:
        raise unusable("there is nothing to learn from in it", path, "gptplan reads text, JSONL, Parquet, Arrow, .bin")
    return found


def _of_folder(folder: Path, pattern: str) -> Found:
    paths = [path for path in sorted(folder.rglob(pattern)) if not _is_hidden(path.relative_to(folder))]
    return _kept(path for path in paths if path.is_file())


def _of_pattern(pattern: str) -> Found:
    if not _PATTERN & {*pattern}:
        raise unusable("there is no such file or folder", pattern, "`data.paths` takes files, folders and patterns")
    absolute = Path(pattern).is_absolute()
    root, relative = (Path("/"), pattern.lstrip("/")) if absolute else (Path(), pattern)
    return _kept(path for path in sorted(root.glob(relative)) if path.is_file())


def _kept(paths: Iterator[Path]) -> Found:
    """Those that are something to learn from, each pair of .bin and .idx once."""
    files, passed_over = [], 0
    for path in paths:
        if path.suffix == ".idx":
            _check_pair(path)
            continue
        if path.suffix == ".json" and path.with_suffix(".idx").is_file():
            continue  # what `tokenize` says of the tokens beside it
        kind = kind_of(path)
        if kind is None:
            passed_over += 1
        else:
            files.append(File(path, kind))
    return Found(files, passed_over)


def _check_pair(index: Path) -> None:
    if not index.with_suffix(".bin").is_file():
        raise unusable("the .bin of this index is not there", index, "it is written by the same command; run it again")


def _is_hidden(relative: Path) -> bool:
    *folders, name = relative.parts
    # The .parts of an interrupted `tokenize` are half of something.
    return name.startswith(".") or any(
        folder.startswith(".") or folder.endswith(".parts") or folder in _SKIPPED_FOLDERS for folder in folders
    )


def _named(path: Path) -> File:
    if not path.is_file():  # the common beginning of a .bin and an .idx, as Megatron-LM takes it
        return File(path.with_name(path.name + ".bin"), "tokens")
    if path.suffix == ".idx":
        _check_pair(path)
        return File(path.with_suffix(".bin"), "tokens")
    kind = kind_of(path)
    if kind is None:
        raise _no_text(path)
    return File(path, kind)


def _no_text(path: Path) -> PlanError:
    start = _start(path) or b""
    is_wide = start[:2] in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE}
    if b"\0" not in start or is_wide:
        code = "UTF-16" if is_wide else "LATIN1"
        hint = f"if it is text, `iconv -f {code} -t UTF-8` converts it; the code may be another"
        return unusable("this is no UTF-8", path, hint)
    return unusable("this is not a text file", path, "gptplan reads text, JSONL, Parquet, Arrow, .bin")


def kind_of(path: Path) -> Kind | None:
    """What a file is by its name, and where that does not say by its beginning; ``None``: nothing to learn from."""
    name = path.with_suffix("") if path.suffix in COMPRESSED else path
    if name.suffix == ".bin" and not _looks_like_tokens(path):
        return None
    if name.suffix in _KINDS:
        return _KINDS[name.suffix]
    start = _start(path)
    if start is None:
        return "text"
    if not _is_text(start):
        return None
    return "jsonl" if name.suffix == ".json" and _is_record(start) else "text"


def _looks_like_tokens(path: Path) -> bool:
    return path.suffix == ".bin" and path.stat().st_size > 0


def _start(path: Path) -> bytes | None:
    """How the content begins; ``None`` where that cannot be told, and reading it will say why."""
    try:
        with opened(path) as file:
            return file.read(_PROBE_BYTES)
    except (PlanError, EOFError):
        return None
    except OSError:
        if path.suffix in COMPRESSED:
            return None
        raise


def _is_text(start: bytes) -> bool:
    try:
        # Incremental: the probe may end within a character.
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _is_record(start: bytes) -> bool:
    """Whether the first line is an object on its own, so that a .json holds one record a line."""
    try:
        return isinstance(msgspec.json.decode(start.splitlines()[0]), dict)
    except (IndexError, msgspec.DecodeError):
        return False
