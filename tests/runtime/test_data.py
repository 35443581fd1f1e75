"""Text to tokens to batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from planner.diagnostics import ExitCode, PlanError
from runtime.train.data import PackedBatches, Tokenizer, check_vocabulary, read_tokens

pytestmark = pytest.mark.runtime


def folder_of(tmp_path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_names_without_what_is_not_text(tmp_path: Path) -> None:
    files = {"b/c.txt": b"two", "a.txt": b"one", "z.md": "\u00e9".encode(), "a.bin": b"\0\1", ".git/x": b"no"}
    files["latin.txt"] = b"\xff\xfe"
    tokens = read_tokens(folder_of(tmp_path, files), Tokenizer(), 100)
    assert bytes(tokens.tolist()).decode() == "onetwo\u00e9"


def test_no_more_tokens_are_read_than_needed(tmp_path: Path) -> None:
    assert len(read_tokens(folder_of(tmp_path, {"a": b"x" * 1000}), Tokenizer(), 10)) == 10


def test_the_standard_library_is_the_default() -> None:
    tokens = read_tokens(None, Tokenizer(), 5000)
    assert len(tokens) == 5000
    assert "import" in bytes(tokens.tolist()).decode(errors="replace")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\0binary", "not a text file"), (b"", "no text"), (None, "no such file")],
    ids=["binary", "empty", "missing"],
)
def test_data_that_is_no_text_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PlanError, match=message) as refusal:
        read_tokens(path, Tokenizer(), 10)
    assert refusal.value.exit_code == ExitCode.USAGE
    assert refusal.value.diagnostics[0].location == str(path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="no text"):
        read_tokens(tmp_path, Tokenizer(), 10)


def test_a_tokenizer_file_is_used(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("b a c")
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer.vocab_size == 3
    assert read_tokens(tmp_path / "text.txt", tokenizer, 10).tolist() == [1, 0, 2]


@pytest.mark.parametrize("content", [None, "{}"], ids=["missing", "other json"])
def test_what_is_no_tokenizer_is_refused(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PlanError, match="tokenizer"):
        Tokenizer(path)


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused() -> None:
    check_vocabulary(Tokenizer(), 256)
    with pytest.raises(PlanError, match="256 tokens, the model's vocabulary 255"):
        check_vocabulary(Tokenizer(), 255)


def batches(seed: int = 0, num_tokens: int = 101) -> PackedBatches:
    tokens = np.arange(num_tokens, dtype=np.int32)
    return PackedBatches(tokens, seq_len=10, global_batch=4, seed=seed)


def test_labels_are_the_next_tokens() -> None:
    batch = batches().batch(0, slice(0, 4))
    assert batch["input_ids"].shape == (4, 10)
    assert torch.equal(batch["labels"], batch["input_ids"] + 1)


def test_ranks_share_one_global_batch() -> None:
    whole = batches().batch(3, slice(0, 4))["input_ids"]
    parts = [batches().batch(3, slice(2 * rank, 2 * rank + 2))["input_ids"] for rank in range(2)]
    assert torch.equal(torch.cat(parts), whole)


def test_an_epoch_has_every_sequence_once_in_an_order_of_the_seed() -> None:
    def epoch(packed: PackedBatches) -> list[int]:
        rows = torch.cat([packed.batch(step, slice(0, 4))["input_ids"] for step in range(5)])
        return (rows[:, 0] // 10).tolist()

    first = epoch(batches())
    assert sorted(first[:10]) == sorted(first[10:]) == list(range(10))
    assert first[:10] != first[10:]
    assert epoch(batches()) == first
    assert epoch(batches(seed=1)) != first


def test_text_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(PlanError, match="10 tokens, one sequence needs 11"):
        batches(num_tokens=10)
