"""Text to packed sequences: any text files, tokenised to bytes or with a `tokenizer.json`."""

import codecs
import sysconfig
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from planner.diagnostics import PlanError, usage_error

BYTE_VOCABULARY = 256
MAX_TOKENS = 2**26
"""Tokens read at most, the same for every rank: 64 Mi, or 256 MiB of memory."""

_RULE = "RUN006"
_CHUNK_BYTES = 2**20
_PROBE_BYTES = 2**16


class Tokenizer:
    """Bytes as tokens, or the tokenizer of a `tokenizer.json`."""

    def __init__(self, path: Path | None = None) -> None:
        """Read the tokenizer in ``path``; without one, every byte is a token.

        Raises:
            PlanError: the file is no tokenizer.
        """
        self.vocab_size = BYTE_VOCABULARY
        self._tokenizer: Any = None
        if path is not None:
            self._tokenizer = _load_tokenizer(path)
            self.vocab_size = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text``."""
        if self._tokenizer is None:
            return list(text.encode())
        tokens: list[int] = self._tokenizer.encode(text).ids
        return tokens


def _load_tokenizer(path: Path) -> Any:
    import tokenizers  # only where a tokenizer is given

    hint = "`--tokenizer` takes the `tokenizer.json` of the Hugging Face tokenizers library"
    if not path.is_file():
        raise usage_error("there is no such tokenizer file", rule=_RULE, location=str(path), hint=hint)
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower class
        raise usage_error(f"this is not a tokenizer: {error}", rule=_RULE, location=str(path), hint=hint) from error


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


def read_tokens(data: Path | None, tokenizer: Tokenizer, num_tokens: int) -> NDArray[np.int32]:
    """The first ``num_tokens`` tokens of the text, or all if there are fewer.

    ``data`` is a text file or a folder of them, taken in the order of their names; without it, the
    source files of Python's standard library.

    Raises:
        PlanError: there is no text.
    """
    files = _standard_library() if data is None else _text_files(data)
    tokens = (token for text in _chunks(files) for token in tokenizer.encode(text))
    limit = min(num_tokens, MAX_TOKENS)
    found = np.fromiter(islice(tokens, limit), dtype=np.int32)
    if not len(found):
        raise _no_text("there is no text in it", data)
    return found


def _no_text(message: str, data: Path | None) -> PlanError:
    where = "the standard library of this Python" if data is None else str(data)
    return usage_error(message, rule=_RULE, location=where, hint="`--data` takes a text file or a folder of text files")


def _text_files(data: Path) -> list[Path]:
    if data.is_file():
        if not _is_text(data):
            raise _no_text("this is not a text file", data)
        return [data]
    if not data.is_dir():
        raise _no_text("there is no such file or folder", data)
    return [path for path in _sorted_files(data, "*") if _is_text(path)]


def _standard_library() -> list[Path]:
    return _sorted_files(Path(sysconfig.get_path("stdlib")), "*.py")


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


def _chunks(files: Iterable[Path]) -> Iterator[str]:
    for path in files:
        with path.open(encoding="utf-8", errors="replace") as file:
            while text := file.read(_CHUNK_BYTES):
                yield text


class PackedBatches:
    """Sequences cut from one token stream, in an order shuffled anew for every epoch.

    A global batch is the same whatever the layout; a data-parallel rank takes its rows of it.
    """

    def __init__(self, tokens: NDArray[np.int32], *, seq_len: int, global_batch: int, seed: int) -> None:
        """Cut ``tokens`` into sequences of ``seq_len`` inputs and their next tokens.

        Raises:
            PlanError: the text is shorter than one sequence.
        """
        self.num_sequences = (len(tokens) - 1) // seq_len
        if self.num_sequences < 1:
            raise usage_error(
                f"the text has {len(tokens)} tokens, one sequence needs {seq_len + 1}",
                rule=_RULE,
                hint="name more text with `--data`, or solve for a smaller `--seq-len`",
            )
        self._tokens = torch.from_numpy(tokens)
        self._seq_len, self._global_batch, self._seed = seq_len, global_batch, seed
        self._orders: dict[int, NDArray[np.int64]] = {}

    def batch(self, step: int, rows: slice) -> dict[str, Tensor]:
        """``rows`` of the global batch of ``step``, counted from 0."""
        first = step * self._global_batch
        numbers = [self._sequence(first + row) for row in range(*rows.indices(self._global_batch))]
        cut = [self._tokens[n * self._seq_len : (n + 1) * self._seq_len + 1] for n in numbers]
        sequences = torch.stack(cut).long()
        return {"input_ids": sequences[:, :-1].contiguous(), "labels": sequences[:, 1:].contiguous()}

    def _sequence(self, position: int) -> int:
        epoch, index = divmod(position, self.num_sequences)
        if epoch not in self._orders:
            order = np.random.default_rng((self._seed, epoch)).permutation(self.num_sequences)
            # A batch reaches over the end of an epoch at most into the epochs it still needs.
            self._orders = {e: o for e, o in self._orders.items() if e >= epoch - 1} | {epoch: order}
        return int(self._orders[epoch][index])
