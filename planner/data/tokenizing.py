"""Text to Megatron-LM's .bin and .idx by all cores, in parts that survive an interruption.

The parts are in PREFIX.parts, each complete or absent. When all are there they are joined, and the three files get
their names: PREFIX.idx, PREFIX.bin and last PREFIX.json, which says what they were made from. An .idx without its
.bin is refused by every reader; a .bin without its .idx would be taken for another format.
"""

import fcntl
import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np

from planner.data.inputs import File, find
from planner.data.part import Part, Task, make_part
from planner.data.pool import run_all
from planner.data.records import PIECE_BYTES, Piece, pieces_of
from planner.data.refusal import no_document, unusable
from planner.data.token_files import index_bytes, token_type_of
from planner.data.tokenizers import Tokenizer
from planner.diagnostics import PlanError
from planner.outputs import check_output

FORMAT = "gptplan-tokens-1"
_MOST_PIECES = 512
"""Of small files in one part."""

Progress = Callable[[int, int, int], None]
"""Told after every part: bytes of input that are done, all of them, and tokens so far."""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of a data set depend on."""

    tokenizer: str
    """Digest of the tokenizer."""
    field: str
    pieces: tuple[Piece, ...]
    files: tuple[tuple[str, int, int], ...]
    """Path, bytes and time of the last change in ns of every file."""

    @property
    def digest(self) -> str:
        """SHA-256 of all of it."""
        return "sha256:" + hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What PREFIX.json says of the tokens beside it."""

    format: str = FORMAT
    recipe: str
    """Digest of what they were made from."""
    tokenizer: str
    """Path of the tokenizer, or ``bytes``."""
    tokenizer_digest: str
    vocab_size: int
    end_of_document: int
    token_type: str
    documents: int
    tokens: int
    files: int
    input_bytes: int
    bad_records: dict[str, int]
    """By what is wrong with them."""
    first_bad: dict[str, str]
    """Where the first of each kind is."""
    replaced_bytes: int
    """That were not UTF-8, and are U+FFFD now."""


class How(NamedTuple):
    """How to go about it."""

    workers: int | None = None
    """Processes; ``None`` is one a core."""
    force: bool = False
    """Replace files whoever wrote them."""
    wait: bool = False
    """For another process that writes the same, instead of refusing."""


def recipe_of(paths: Sequence[str], field: str, tokenizer: Tokenizer) -> Recipe:
    """What tokenizing the files of ``paths`` depends on.

    Raises:
        PlanError: there are none, or some are tokens already.
    """
    files = [file for path in paths for file in find(path).files]
    return recipe_of_files(files, field, tokenizer)


def recipe_of_files(files: Sequence[File], field: str, tokenizer: Tokenizer) -> Recipe:
    """What tokenizing ``files`` depends on.

    Raises:
        PlanError: some are tokens already, or cannot be read.
    """
    for file in files:
        if file.kind == "tokens":
            raise unusable("this file holds tokens already", file.path, "name it in `data.paths` of a job as it is")
    stats = [file.path.stat() for file in files]
    return Recipe(
        tokenizer=tokenizer.digest,
        field=field,
        pieces=tuple(piece for file in files for piece in pieces_of(file)),
        files=tuple((str(file.path), stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats, strict=True)),
    )


def read_manifest(prefix: Path) -> Manifest | None:
    """What ``prefix``.json says, if gptplan wrote it."""
    try:
        found = msgspec.json.decode(_beside(prefix, ".json").read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.format == FORMAT else None


def tokenize(
    recipe: Recipe,
    prefix: Path,
    tokenizer: Tokenizer,
    how: How | None = None,
    progress: Progress = lambda done, total, tokens: None,
) -> Manifest:
    """Write the tokens of ``recipe`` to ``prefix``.bin and .idx; what an earlier call has finished is not done again.

    Args:
        recipe: the input.
        prefix: the files to write, without their suffix.
        tokenizer: that of the recipe.
        how: with how many processes, and what of what is there.
        progress: told after every part.

    Raises:
        PlanError: the input cannot be used, or the output cannot be written.
        KeyboardInterrupt: Ctrl-C; the parts that are done stay.
    """
    how = how or How()
    prefix = Path(os.path.realpath(_beside(prefix, ".bin"))).with_suffix("")
    if (made := _made(prefix, recipe)) is not None:
        return made
    parts = _beside(prefix, ".parts")
    is_ours = read_manifest(prefix) is not None or (parts / "recipe").is_file()
    for suffix in (".idx", ".bin", ".json"):
        check_output(_beside(prefix, suffix), what="tokens", ours=lambda _: is_ours, force=how.force)
    with _parts_folder(parts, recipe, wait=how.wait):
        manifest = _made(prefix, recipe)  # by the one that was waited for
        if manifest is None:
            done = _make_parts(recipe, parts, tokenizer, how.workers, progress)
            manifest = _manifest(recipe, tokenizer, done)
            _join(parts, len(done), prefix, manifest)
        shutil.rmtree(parts)
    return manifest


def _made(prefix: Path, recipe: Recipe) -> Manifest | None:
    """What is there already, if it is whole and of this recipe."""
    known = read_manifest(prefix)
    is_there = all(_beside(prefix, suffix).is_file() for suffix in (".bin", ".idx"))
    return known if known is not None and known.recipe == recipe.digest and is_there else None


def _beside(prefix: Path, suffix: str) -> Path:
    """Not ``with_suffix``, which cuts a name such as ``corpus-v1.5``."""
    return prefix.with_name(prefix.name + suffix)


@contextmanager
def _parts_folder(parts: Path, recipe: Recipe, *, wait: bool) -> Iterator[None]:
    """The folder of parts, for this process alone; parts of another recipe are thrown away."""
    try:
        parts.mkdir(parents=True, exist_ok=True)
        with (parts / "lock").open("wb") as lock:
            _lock(lock, parts, wait=wait)
            parts.mkdir(exist_ok=True)  # the one that was waited for has removed it
            file = parts / "recipe"
            if not file.is_file() or file.read_text(encoding="utf-8") != recipe.digest:
                for old in parts.iterdir():
                    if old.name != "lock":
                        old.unlink()
                file.write_text(recipe.digest, encoding="utf-8")
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unusable(
            f"cannot write the tokens: {error.strerror}",
            error.filename or parts,
            "name another place with `-o`, or for a run with `--set data.cache=FOLDER`",
        ) from error


def _lock(lock: IO[bytes], parts: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise unusable("another process is writing these tokens", parts, "wait for it, or name another `-o`") from error


def _make_parts(
    recipe: Recipe, folder: Path, tokenizer: Tokenizer, workers: int | None, progress: Progress
) -> list[Part]:
    tasks = [
        Task(
            folder=str(folder),
            number=number,
            pieces=tuple(pieces),
            field=recipe.field,
            tokenizer=tokenizer.path,
            end_of_document=tokenizer.end_name,
        )
        for number, pieces in enumerate(_grouped(recipe.pieces))
    ]
    made = {task.number: part for task in tasks if (part := task.made()) is not None}
    sizes = [sum(piece.size_bytes for piece in task.pieces) for task in tasks]
    total, done = sum(sizes), sum(sizes[number] for number in made)
    tokens = sum(part.tokens for part in made.values())
    progress(done, total, tokens)
    left = [task for task in tasks if task.number not in made]
    with closing(run_all(make_part, left, workers)) as results:
        for task, part in results:
            if part.failed:
                raise PlanError(*part.failed)
            made[task.number] = part
            done, tokens = done + sizes[task.number], tokens + part.tokens
            progress(done, total, tokens)
    return [made[number] for number in range(len(tasks))]


def _grouped(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Small pieces together, so that there are not too many parts."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        if group and (size + piece.size_bytes > PIECE_BYTES or len(group) == _MOST_PIECES):
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size_bytes
    if group:
        yield group


def _manifest(recipe: Recipe, tokenizer: Tokenizer, made: Sequence[Part]) -> Manifest:
    bad: Counter[str] = Counter()
    first: dict[str, str] = {}
    for part in made:
        bad.update(part.bad)
        first = dict(part.first_bad) | first
    documents = sum(part.documents for part in made)
    if not documents:
        raise no_document(bad, next(iter(first.values()), recipe.files[0][0]), recipe.field)
    return Manifest(
        recipe=recipe.digest,
        tokenizer=tokenizer.path,
        tokenizer_digest=tokenizer.digest,
        vocab_size=tokenizer.vocab_size,
        end_of_document=tokenizer.end_of_document,
        token_type=token_type_of(tokenizer.vocab_size),
        documents=documents,
        tokens=sum(part.tokens for part in made),
        files=len(recipe.files),
        input_bytes=sum(size for _, size, _ in recipe.files),
        bad_records=dict(bad),
        first_bad=first,
        replaced_bytes=sum(part.replaced_bytes for part in made),
    )


def _join(parts: Path, count: int, prefix: Path, manifest: Manifest) -> None:
    lengths, ends = [], []
    with (parts / "joined.bin").open("wb") as joined:
        for number in range(count):
            with Task.path(parts, number, "tokens").open("rb") as part:
                shutil.copyfileobj(part, joined, 2**20)
            with np.load(Task.path(parts, number, "npz")) as arrays:
                lengths.append(arrays["lengths"])
                ends.append(arrays["ends"])
        _flushed(joined)
    kind: np.dtype[Any] = np.dtype(manifest.token_type)
    contents = {
        ".idx": index_bytes(np.concatenate(lengths), np.concatenate(ends), kind),
        ".json": msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n",
    }
    for suffix, content in contents.items():
        with (parts / f"joined{suffix}").open("wb") as file:
            file.write(content)
            _flushed(file)
    for suffix in (".idx", ".bin", ".json"):
        (parts / f"joined{suffix}").replace(_beside(prefix, suffix))


def _flushed(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
