"""Text to tokens: bytes, a Hugging Face tokenizer's folder or file, tiktoken's file of GPT-2."""

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.data.refusal import not_installed, unusable

BYTES = "bytes"
"""What stands for: every byte of UTF-8 is a token."""
BYTE_VOCABULARY = 256
BYTE_END_OF_DOCUMENT = 255
"""A byte that no UTF-8 text has (RFC 3629, section 1)."""
HINT = f"`tokenizer.path` takes `{BYTES}`, a tokenizer.json or its folder, or a file of ranks such as gpt2.tiktoken"
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]")
"""What well-known vocabularies call the end of a document, where no configuration says so."""
_GPT2_END = "<|endoftext|>"


class Tokenizer:
    """One way to make tokens of text."""

    def __init__(self, path: str, library: Any, end_of_document: int, end_name: str) -> None:
        """Use the tokenizers library's ``library``, or bytes without one."""
        self.path, self.end_name = path, end_name
        """As :func:`load_tokenizer` takes them."""
        self._library = library
        self.end_of_document = end_of_document
        """The token after each document."""
        self.vocab_size = BYTE_VOCABULARY
        """Largest token and 1."""
        if library is not None:
            self.vocab_size = max(library.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the tokens of a text."""
        rules = BYTES if self._library is None else self._library.to_str()
        return "sha256:" + hashlib.sha256(f"{rules} {self.end_of_document}".encode()).hexdigest()

    def encode(self, texts: Sequence[str], kind: np.dtype[Any]) -> list[NDArray[Any]]:
        """The tokens of each text, without special ones, as an array of ``kind``."""
        if self._library is None:
            return [np.frombuffer(text.encode(), np.uint8).astype(kind) for text in texts]
        encoded = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, kind) for one in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of ``tokens``."""
        if self._library is None:
            return bytes(tokens).decode(errors="replace")
        text: str = self._library.decode(list(tokens))
        return text


def load_tokenizer(path: str, end_of_document: str = "") -> Tokenizer:
    """The tokenizer in ``path``, a file or folder, or ``bytes``.

    Args:
        path: where it is.
        end_of_document: the token after each document as text, where not what the tokenizer itself says.

    Raises:
        PlanError: there is none, it cannot be read, or it does not say how a document ends.
    """
    if path == BYTES:
        if end_of_document:
            raise unusable(f"bytes have no token `{end_of_document}`", BYTES, "leave `tokenizer.end_of_document` out")
        return Tokenizer(BYTES, None, BYTE_END_OF_DOCUMENT, "")
    place = Path(path)
    if not place.exists():
        raise unusable("there is no such tokenizer", path, HINT)
    try:
        library = _library_of(place)
    except OSError as error:
        raise unusable(f"cannot read the tokenizer: {error.strerror}", path, HINT) from error
    # A tokenizer.json may hold settings of the application that it was saved from.
    library.no_truncation()
    library.no_padding()
    return Tokenizer(path, library, _end_of_document(place, library, end_of_document), end_of_document)


def _library_of(place: Path) -> Any:
    try:
        import tokenizers  # noqa: PLC0415 - only where bytes are not enough
    except ImportError as error:
        raise not_installed("tokenizers", "a tokenizer other than bytes", place) from error
    file = place / "tokenizer.json" if place.is_dir() else place
    if file.is_file() and file.suffix != ".json":
        return _from_ranks(tokenizers, file)
    if not file.is_file():
        vocabulary, merges = place / "vocab.json", place / "merges.txt"
        if not (vocabulary.is_file() and merges.is_file()):
            raise unusable(
                "the folder has neither tokenizer.json nor vocab.json and merges.txt",
                place,
                "transformers' `AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes a tokenizer.json",
            )
        return _byte_level(tokenizers, tokenizers.models.BPE.from_file(str(vocabulary), str(merges)))
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise unusable(f"this is not a tokenizer: {error}", file, HINT) from error


def _byte_level(tokenizers: Any, model: Any) -> Any:
    """A tokenizer that cuts text as GPT-2's does."""
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens([_GPT2_END])
    return made


def _from_ranks(tokenizers: Any, file: Path) -> Any:
    """GPT-2's tokenizer from tiktoken's file: a token in base64 and its rank on each line."""
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise unusable("this is no file of tokens and ranks", file, HINT) from error
    if len(ranks) < BYTE_VOCABULARY or sorted(ranks.values()) != list(range(len(ranks))):
        raise unusable(f"{len(ranks)} tokens do not have the ranks 0 to {len(ranks) - 1}", file, HINT)
    shown = _shown_bytes()
    names = {token: "".join(shown[byte] for byte in token) for token in ranks}
    merges = [tuple(names[part] for part in _parts(token, ranks)) for token in sorted(ranks, key=ranks.__getitem__)]
    vocabulary = {names[token]: rank for token, rank in ranks.items()}
    model = tokenizers.models.BPE(vocabulary, [pair for pair in merges if len(pair) == 2])  # noqa: PLR2004
    return _byte_level(tokenizers, model)


def _parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two tokens that are merged into this one last: what merges of lower rank leave of its bytes."""
    parts = [token[index : index + 1] for index in range(len(token))]
    while len(parts) > 1:
        joined = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        lowest = min(joined)
        if lowest >= ranks[token]:
            return parts
        at = joined.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _shown_bytes() -> dict[int, str]:
    """The printable character that stands for a byte in GPT-2's vocabulary (encoder.py, ``bytes_to_unicode``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _end_of_document(place: Path, library: Any, asked: str) -> int:
    names = [asked] if asked else [*_configured(place), *_ENDS]
    found = [token for name in names if (token := library.token_to_id(name)) is not None]
    if not found:
        what = f"has no token `{asked}`" if asked else "does not say which token ends a document"
        hint = "name one of its tokens with `tokenizer.end_of_document`"
        raise unusable(f"the tokenizer {what}", place, hint)
    return int(found[0])


def _configured(place: Path) -> list[str]:
    """The `eos_token` of the files beside a tokenizer.json."""
    folder = place if place.is_dir() else place.parent
    found = []
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            fields = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        token = fields.get("eos_token") if isinstance(fields, dict) else None
        token = token.get("content") if isinstance(token, dict) else token
        found += [token] if isinstance(token, str) else []
    return found
