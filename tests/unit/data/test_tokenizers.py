"""Text to tokens."""

import base64
import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.data.tokenizers import BYTES, load_tokenizer
from planner.diagnostics import PlanError

tokenizers = pytest.importorskip("tokenizers")
U16 = np.dtype("u2")
TEXT = "Low lower lowest: the newest 3 widest towers\n\n  were wider\u2019s jos\u00e9. "


def words(folder: Path, **special: Any) -> Path:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2, "</s>": 9}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.add_special_tokens(["<stop>"])
    # Left by the application that saved it, and nothing for training.
    made.enable_truncation(2)
    made.enable_padding(length=8)
    made.post_processor = tokenizers.processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 9)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    return folder


def test_bytes_end_a_document_with_a_byte_that_no_text_has() -> None:
    tokenizer = load_tokenizer(BYTES)
    assert (tokenizer.vocab_size, tokenizer.end_of_document) == (256, 255)
    (tokens,) = tokenizer.encode([TEXT], U16)
    assert bytes(tokens.tolist()).decode() == TEXT
    assert 255 not in tokens
    with pytest.raises(PlanError, match="no token"):
        load_tokenizer(BYTES, "</s>")


@pytest.mark.parametrize("name", ["", "tokenizer.json"])
def test_a_folder_and_its_file_give_tokens_without_settings_of_an_application(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(words(tmp_path, eos_token="<stop>") / name))
    assert [one.tolist() for one in tokenizer.encode(["b a c a", "a"], U16)] == [[1, 0, 2, 0], [0]]
    assert tokenizer.vocab_size == 10  # one more than the largest token, and there are five
    assert tokenizer.end_of_document == 4


def test_which_token_ends_a_document(tmp_path: Path) -> None:
    assert load_tokenizer(str(words(tmp_path))).end_of_document == 9
    assert load_tokenizer(str(words(tmp_path, eos_token={"content": "<stop>"}))).end_of_document == 4
    assert load_tokenizer(str(tmp_path), "b").end_of_document == 1
    with pytest.raises(PlanError, match="no token `c`"):
        load_tokenizer(str(tmp_path), "c")
    with_another = load_tokenizer(str(tmp_path), "b").digest
    assert with_another != load_tokenizer(str(tmp_path)).digest
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    made.save(str(tmp_path / "other.json"))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(PlanError, match="does not say which token ends a document"):
        load_tokenizer(str(tmp_path / "other.json"))


def trained(size: int) -> Any:
    """A small vocabulary of GPT-2's kind."""
    made = tokenizers.ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT * 20], vocab_size=size, min_frequency=1, show_progress=False)
    return made


def test_a_folder_of_vocabulary_and_merges(tmp_path: Path) -> None:
    made = trained(300)
    made.save_model(str(tmp_path))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.encode([TEXT], U16)[0].tolist() == made.encode(TEXT).ids
    assert tokenizer.end_of_document == made.get_vocab_size()
    assert tokenizer.vocab_size == made.get_vocab_size() + 1


_GPT2 = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+")
"""How GPT-2 cuts text (encoder.py), for letters and digits of ``re``."""


def merged(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Byte-pair encoding as tiktoken does it: always the neighbours of the lowest rank."""
    parts = [bytes([byte]) for byte in word]
    while True:
        pairs = [(ranks[a + b], n) for n, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not pairs:
            return [ranks[part] for part in parts]
        at = min(pairs)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_a_file_of_ranks_gives_the_tokens_of_tiktoken(tmp_path: Path) -> None:
    draw = random.Random(4)
    order = [bytes([byte]) for byte in range(256)]
    draw.shuffle(order)  # ranks of single bytes are not their numbers in GPT-2's file
    for _ in range(150):
        start = draw.randrange(len(TEXT.encode()) - 1)
        word = draw.choice(_GPT2.findall(TEXT)).encode()
        pieces = [order[one] for one in merged(word, {token: rank for rank, token in enumerate(order)})]
        at = start % max(len(pieces) - 1, 1)
        if len(pieces) > 1 and pieces[at] + pieces[at + 1] not in order:
            order.append(pieces[at] + pieces[at + 1])
    assert len(order) > 290
    ranks = {token: rank for rank, token in enumerate(order)}
    path = tmp_path / "gpt2.tiktoken"
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()))
    tokenizer = load_tokenizer(str(path))
    for text in (TEXT, "".join(draw.choices(TEXT, k=500))):
        expected = [token for word in _GPT2.findall(text) for token in merged(word.encode(), ranks)]
        assert tokenizer.encode([text], U16)[0].tolist() == expected
    assert (tokenizer.end_of_document, tokenizer.vocab_size) == (len(order), len(order) + 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "no such tokenizer"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("a.tiktoken", "what is it", "no file of tokens and ranks"),
        ("a.tiktoken", "YQ== 0\n", "1 tokens do not have the ranks"),
    ],
)
def test_what_is_no_tokenizer_is_refused(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PlanError, match=message):
        load_tokenizer(str(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlanError, match="neither"):
        load_tokenizer(str(tmp_path / "empty"))
