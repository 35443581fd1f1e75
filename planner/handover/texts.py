"""The text of a run and the tokens in it: judged before anything starts, and read by every rank."""

import codecs
import importlib
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from planner.diagnostics import Diagnostic, ExitCode, PlanError, usage_error

BYTE_VOCABULARY = 256
TOKENIZER_FILE = "tokenizer.json"

_RULE = "RUN006"
_CHUNK_CHARACTERS = 2**20
_PROBE_BYTES = 2**16
_RECORDS = {".jsonl": "jq -r .text", ".ndjson": "jq -r .text", ".json": "jq -r '.. | strings'"}
"""Suffixes of files whose text is in records, and what takes it out."""


class Tokenizer:
    """Bytes as tokens, or the tokenizer of a `tokenizer.json`."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the tokenizer in ``path``, a file or a folder with one; without it, every byte is a token.

        Raises:
            PlanError: there is no tokenizer.
        """
        self.vocab_size = BYTE_VOCABULARY
        """One more than the largest token."""
        self._tokenizer: Any = None
        if path is not None:
            self._tokenizer = _load_tokenizer(path)
            self.vocab_size = 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``."""
        if self._tokenizer is None:
            return list(text.encode())
        tokens: list[int] = self._tokenizer.encode(text).ids
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``."""
        if self._tokenizer is None:
            return bytes(tokens).decode(errors="replace")
        text: str = self._tokenizer.decode(list(tokens))
        return text


def _load_tokenizer(path: Path) -> Any:
    hint = f"`--tokenizer` takes a {TOKENIZER_FILE} of the Hugging Face tokenizers library, or a folder with one"
    file = path / TOKENIZER_FILE if path.is_dir() else path
    if not file.is_file():
        what = f"this folder has no {TOKENIZER_FILE}" if path.is_dir() else "there is no such tokenizer file"
        raise usage_error(what, rule=_RULE, location=str(path), hint=hint)
    try:
        tokenizers = importlib.import_module("tokenizers")  # only where a tokenizer is given
    except ImportError as error:
        message = "reading a tokenizer needs the package tokenizers, which is not installed"
        needed = Diagnostic(rule="RUN001", message=message, hint="`pip install tokenizers`")
        raise PlanError(needed, exit_code=ExitCode.NEGATIVE) from error
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise usage_error(f"this is not a tokenizer: {error}", rule=_RULE, location=str(file), hint=hint) from error


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """Refuse a model that has no row for some token.

    Raises:
        PlanError: the vocabulary of the model is smaller than the tokenizer's.
    """
    if tokenizer.vocab_size > vocab_size:
        raise usage_error(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocabulary {vocab_size}",
            rule=_RULE,
            hint="choose a tokenizer with a smaller vocabulary, or solve for a larger `vocab_size`",
        )


def check_texts(data: Path | None, tokenizer: Path | None, *, vocab_size: int, seq_len: int) -> None:
    """Refuse data and a tokenizer that a model of ``vocab_size`` cannot be trained with, reading no more than it takes.

    Raises:
        PlanError: one is missing or of another kind, or the text is shorter than a sequence of ``seq_len`` tokens.
    """
    chosen = Tokenizer(tokenizer)
    check_vocabulary(chosen, vocab_size)
    num_tokens = 0
    for _, tokens in token_chunks(text_files(data), chosen):
        num_tokens += len(tokens)
        if num_tokens > seq_len:
            return
    check_length(num_tokens, seq_len)


def check_length(num_tokens: int, seq_len: int) -> None:
    """Refuse a text that is shorter than one sequence and its last label.

    Raises:
        PlanError: it is, or there is none.
    """
    if num_tokens <= seq_len:
        raise usage_error(
            f"the text has {num_tokens} tokens, one sequence needs {seq_len + 1}",
            rule=_RULE,
            hint="name more text with `--data`, or solve for a smaller `--seq-len`",
        )


def text_files(data: Path | None) -> list[Path]:
    """The file, or the text files in the folder, in the order of their names; without either, Python's own library.

    Raises:
        PlanError: there is no text, or one that is in records.
    """
    if data is None:
        return _sorted_files(Path(sysconfig.get_path("stdlib")), "*.py")
    if data.is_file():
        if not _is_text(data):
            raise _no_text("this is not a text file", data)
        found = [data]
    elif data.is_dir():
        found = [path for path in _sorted_files(data, "*") if _is_text(path)]
    else:
        raise _no_text("there is no such file or folder", data)
    for path in found:
        if command := _RECORDS.get(path.suffix.lower()):
            text = path.with_suffix(".txt").name
            hint = (
                f"take the text out, for example with `{command} {path.name} > {text}`, and this file out of the data"
            )
            message = "this is JSON, whose syntax would be trained: `--data` takes plain text"
            raise usage_error(message, rule=_RULE, location=str(path), hint=hint)
    if not any(path.stat().st_size for path in found):
        raise _no_text("there is no text in it", data)
    return found


def _no_text(message: str, data: Path) -> PlanError:
    hint = "`--data` takes a text file or a folder of text files"
    return usage_error(message, rule=_RULE, location=str(data), hint=hint)


def _sorted_files(folder: Path, pattern: str) -> list[Path]:
    def is_wanted(path: Path) -> bool:
        parts = path.relative_to(folder).parts
        skipped = any(part.startswith(".") or part in ("site-packages", "dist-packages") for part in parts)
        return not skipped and path.is_file()

    return sorted(path for path in folder.rglob(pattern) if is_wanted(path))


def _is_text(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(_PROBE_BYTES)
        # Incremental: the probe may end within a character.
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except OSError as error:
        raise _no_text(f"cannot read the data: {error.strerror}", path) from error
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def token_chunks(files: list[Path], tokenizer: Tokenizer) -> Iterator[tuple[int, list[int]]]:
    """The texts piece by piece, one after the other: bytes of each piece, and its tokens."""
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            while text := file.read(_CHUNK_CHARACTERS):
                yield len(text.encode()), tokenizer.encode(text)
